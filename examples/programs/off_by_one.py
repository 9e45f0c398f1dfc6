print(*range(1, 10))

import socket

try:
    socket.create_connection(('1.1.1.1', 53), timeout=1)
except OSError as error:
    print('no network:', type(error).__name__)

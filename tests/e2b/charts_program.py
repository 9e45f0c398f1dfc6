"""Plots of matplotlib, as the SDK shows them: a picture, and what is in it as data."""

from e2b_code_interpreter import Sandbox

sandbox = Sandbox.create()


def chart(code):
    done = sandbox.run_code(f'import matplotlib.pyplot as plt\n{code}\nplt.show()')
    assert done.error is None, done.error.traceback
    assert done.results[0].png
    return done.results[0].chart


line = chart('plt.plot([1, 2, 3], [4, 5, 6], label="a"); plt.title("T"); plt.xlabel("Time (s)"); plt.ylabel("V")')
print(type(line).__name__, line.title, line.x_label, line.x_unit, line.elements[0].label, line.elements[0].points)
bar = chart('plt.bar(["x", "y"], [3, 4])')
print(type(bar).__name__, [(each.label, each.value) for each in bar.elements])
scatter = chart('plt.scatter([1, 2], [3, 4])')
print(type(scatter).__name__, scatter.elements[0].points, scatter.x_scale.value)
pie = chart('plt.pie([1, 3], labels=["p", "q"])')
print(type(pie).__name__, [(each.label, round(each.angle)) for each in pie.elements])
data = '[[1, 2, 3, 4, 5, 30], [2, 4, 6, 8]]'
box = chart(f'plt.boxplot({data}); plt.xticks([1, 2], ["p", "q"])')
print(
    type(box).__name__,
    [(e.label, e.min, e.first_quartile, e.median, e.third_quartile, e.max, e.outliers) for e in box.elements],
)
lying = chart(f'plt.boxplot({data}, vert=False, patch_artist=True, notch=True)')
print(type(lying).__name__, [(e.min, e.median, e.max) for e in lying.elements])
both = chart('f, (a, b) = plt.subplots(1, 2); a.plot([1], [2]); b.bar(["z"], [1])')
print(type(both).__name__, [type(each).__name__ for each in both.elements])
print(chart('plt.imshow([[1, 2], [3, 4]])'))
sandbox.kill()

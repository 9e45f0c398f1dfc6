"""An agent of smolagents whose code runs in an E2B sandbox; the model is a list of answers."""

from smolagents import CodeAgent, tool
from smolagents.models import ChatMessage, MessageRole, Model
from smolagents.monitoring import AgentLogger, LogLevel
from smolagents.remote_executors import E2BExecutor


class Scripted(Model):
    def __init__(self, answers):
        super().__init__()
        self.answers = list(answers)

    def generate(self, messages, **options):
        code = self.answers.pop(0)
        return ChatMessage(role=MessageRole.ASSISTANT, content=f'Thought: continue.\n<code>\n{code}\n</code>')


@tool
def double(number: int) -> int:
    """Return twice a number.

    Args:
        number: The number.
    """
    return 2 * number


logger = AgentLogger(level=LogLevel.OFF)
executor = E2BExecutor([], logger)
executor.send_variables({'given': [1, 2, 3]})
print('state', executor('kept = sum(given)\nprint("printed")\nkept').output)
print('again', executor('kept + 1').output)
print('logs', executor('print("seen")').logs.strip())
try:
    executor('1 / 0')
except Exception as error:
    print('error', 'ZeroDivisionError' in str(error))
executor.cleanup()

answers = ['print(double(21))', 'final_answer(double(10) + 2)']
agent = CodeAgent(tools=[double], model=Scripted(answers), executor_type='e2b', verbosity_level=LogLevel.OFF)
print('agent', agent.run('Double it.'))
agent.cleanup()

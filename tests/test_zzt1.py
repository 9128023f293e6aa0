import time, contextlib
from test_wire import *
from test_wire import server
@pytest.mark.parametrize("silent,slow,half",[(0,0,0),(8,0,0),(0,6,0),(0,0,2),(0,0,16)])
def test_m(server, silent, slow, half, capsys):
    with contextlib.ExitStack() as s:
        for _ in range(silent): s.enter_context(connect(server))
        for _ in range(slow):
            x=s.enter_context(connect(server)); x.sendall(head("Content-Length: 100", close=False)+b"{}")
        for _ in range(half):
            x=s.enter_context(connect(server)); x.sendall(b"POST /api/v1")
        t=[]
        for _ in range(5):
            b=time.monotonic(); send(server,BODY); t.append(round(time.monotonic()-b,2))
        with capsys.disabled(): print(silent,slow,half,t)

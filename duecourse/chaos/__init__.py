"""`make chaos`: the deployed template and worker processes of our own, under faults, and nothing lost.

plan        what happens when, from a seed                      pure
saboteur    kill points and shortened clocks, put into a process from outside
roles       what the processes of a run do: worker, relay, sweep
crew        forks them, kills them, and forks them again
provider    a double of SES that throttles, hangs and breaks off, and logs what it took
load        orders jobs, through every outage
inject      the faults that come from outside: PostgreSQL, the emulator, poison
verdict     counts what came of it
run         one run from start to verdict
"""

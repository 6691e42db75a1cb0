"""`make chaos`: the deployed template and worker processes of our own, under faults, and nothing lost.

plan          what happens when, from a seed                      pure
saboteur      kill points, shortened clocks and other functions, put into a process from outside
slow_sqs      instead of a send: an SQS that is slow and refuses
rollout       instead of the worker: that of the release before, or after
misbehave     instead of a probe's handler: one that gets it wrong
roles         what the processes of a run do: worker, relay, sweep
crew          forks them, kills them, and forks them again
provider      a double of SES that throttles, hangs and breaks off, and logs what it took
mails         whom the mails of a run go to
load          orders jobs, through every outage
applications  other programs, which hold a transaction open
inject        the faults that come from outside: PostgreSQL, the emulator, poison
turns         whether the groups of FIFO queues kept their order   pure
verdict       counts what came of it
run           one run from start to verdict
"""

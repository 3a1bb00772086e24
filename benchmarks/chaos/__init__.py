"""`python -m benchmarks chaos`: tests what is promised about refreshing tokens while processes, servers and providers
fail.

To check it, read in this order: `verdict` says what counts as lost. It judges from three witnesses, none of which is
the service: the answers that the driver (this benchmark) got (`ledger`), which calls the provider received (`witness`),
and what is stored in Postgres (`connections`); `aftermath` collects their evidence, and `meter` notes when the
service's metrics showed a loss. `kills`, `restarts`, `races`, `outages`, `bad_answers` and `clocks` cause the failures.
`naive` is a refresher without lease and fence, with which a part of the run has to fail. `fleet` and `workers` start
and stop the processes; `run` sets the order of the scenarios and prints the table of results.

What the code here calls a connection is an integration: a user's linked account at a provider. All random choices
follow from the printed seed. A scenario whose promise is broken is not tried again.
"""

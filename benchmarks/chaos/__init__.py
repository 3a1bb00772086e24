"""`python -m benchmarks chaos`: the promises about refreshing tokens, kept while everything around it breaks.

For whoever doubts them, in this order: `verdict` says what counts as lost, from three witnesses of which none is the
service: what the driver was answered (`ledger`), what the provider was asked (`witness`), and what lies in Postgres
(`connections`); `aftermath` asks them. `kills`, `restarts`, `races`, `outages` and `bad_answers` do the harm. `naive`
is the refresher without lease and fence, which has to fail the same run. `fleet` and `workers` hold the processes,
`run` the order and the table.

All that is left to chance follows from the printed seed. Nothing is tried again until it succeeds.
"""

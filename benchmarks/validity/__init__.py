"""Parts of the benchmark `cli_validity`, one concept a file.

`cells` what there is to do and how it is kept; `models` frames, labels and training; `runs` the
dynamics; `replicas` what is known of each; `foretelling` and `statistics` what that says; `figures`
how it is shown.
"""

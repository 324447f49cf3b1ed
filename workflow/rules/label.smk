# Label with the reference. A batch has a fixed number n of shards; shard i takes every n-th frame from
# the i-th on. The job succeeds even where a frame gets no label; see halcyon.labels.labelling.


rule label:
    input:
        selected="<campaign>/{system}/{batch}/selected.parquet",
    output:
        labels="<campaign>/{system}/{batch}/labels/{shard}.parquet",
    log:
        "<campaign>/{system}/logs/{batch}-label-{shard}.log",
    conda:
        "../../envs/cp2k.yaml"
    threads: lambda wc: SETTINGS[wc.system].resources.label_cores
    resources:
        runtime=sized("label", "runtime_min"),
        mem_mb=sized("label", "memory_mb"),
    params:
        program=SCRIPTS / "label.py",
        campaign=CAMPAIGN.file,
        shards=lambda wc: SETTINGS[wc.system].resources.label_shards,
        number=lambda wc: int(wc.shard),
        seconds=budgeted_seconds,
        ranks=ranks,
    shell:
        "exec python {params.program:q} --campaign {params.campaign:q} --system {wildcards.system}"
        " --threads {threads} --ranks {params.ranks} --log {log:q} --seconds {params.seconds} --batch {wildcards.batch}"
        " --selected {input.selected:q} --shard {params.number} --of {params.shards}"
        " --out {output.labels:q}"

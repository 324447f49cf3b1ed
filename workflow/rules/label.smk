# Label with the reference: a fixed number of shards per batch, shard i takes frames i::n.
# The job succeeds whatever becomes of a frame; see halcyon.labels.


rule label:
    input:
        selected=ROOT + "/{system}/{batch}/selected.parquet",
    output:
        labels=ROOT + "/{system}/{batch}/labels/{shard}.parquet",
    params:
        campaign=CAMPAIGN.file,
        shards=lambda wc: SETTINGS[wc.system].resources.label_shards,
        number=lambda wc: int(wc.shard),
        seconds=budgeted_seconds,
    threads: lambda wc: SETTINGS[wc.system].resources.label_cores
    retries: attempts(3)
    conda:
        "../../envs/cp2k.yaml"
    shell:
        "python {SCRIPTS:q}/label.py --campaign {params.campaign:q} --system {wildcards.system}"
        " --threads {threads} --seconds {params.seconds} --batch {wildcards.batch}"
        " --selected {input.selected:q} --shard {params.number} --of {params.shards}"
        " --out {output.labels:q}"

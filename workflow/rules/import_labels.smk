# Take over labels from the user's files (seed_labels.from), once some were computed again. Resumes after a kill.


rule import_labels:
    input:
        files=lambda wc: SETTINGS[wc.system].seed_labels.files,
    output:
        labels="<campaign>/{system}/imported/labels.parquet",
        summary="<campaign>/{system}/imported/imported.json",
    log:
        "<campaign>/{system}/logs/import_labels.log",
    conda:
        "../../envs/cp2k.yaml"
    threads: lambda wc: SETTINGS[wc.system].resources.label_cores
    resources:
        runtime=sized("import_labels", "runtime_min"),
        mem_mb=sized("import_labels", "memory_mb"),
    params:
        program=SCRIPTS / "import_labels.py",
        campaign=CAMPAIGN.file,
        seconds=budgeted_seconds,
        ranks=ranks,
    shell:
        "exec python {params.program:q} --campaign {params.campaign:q} --system {wildcards.system}"
        " --threads {threads} --ranks {params.ranks} --log {log:q} --seconds {params.seconds}"
        " --labels {output.labels:q} --summary {output.summary:q}"

# Fine-tune on all labels so far.


rule train:
    input:
        labels=labels_before,
        start=start_model,
    output:
        model="<campaign>/{system}/gen{gen}/model.model",
        metrics="<campaign>/{system}/gen{gen}/metrics.json",
    log:
        "<campaign>/{system}/logs/gen{gen}-train.log",
    conda:
        "../../envs/mace.yaml"
    threads: lambda wc: SETTINGS[wc.system].resources.train_cores
    params:
        program=SCRIPTS / "train.py",
        campaign=CAMPAIGN.file,
        number=lambda wc: int(wc.gen),
        start=lambda wc, input: f"--start {input.start}" if input.start else "",
    shell:
        "python {params.program:q} --campaign {params.campaign:q} --system {wildcards.system}"
        " --generation {params.number} --threads {threads} --log {log:q} --labels {input.labels:q}"
        " {params.start} --model {output.model:q} --metrics {output.metrics:q}"

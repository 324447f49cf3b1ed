# Fine-tune on all labels so far.


rule train:
    input:
        labels=labels_before,
        start=start_model,
    output:
        model=ROOT + "/{system}/gen{gen}/model.model",
        metrics=ROOT + "/{system}/gen{gen}/metrics.json",
    params:
        campaign=CAMPAIGN.file,
        number=lambda wc: int(wc.gen),
        start=lambda wc, input: f"--start {input.start}" if input.start else "",
    threads: lambda wc: SETTINGS[wc.system].resources.train_cores
    conda:
        "../../envs/mace.yaml"
    shell:
        "python {SCRIPTS:q}/train.py --campaign {params.campaign:q} --system {wildcards.system}"
        " --generation {params.number} --threads {threads} --labels {input.labels:q}"
        " {params.start} --model {output.model:q} --metrics {output.metrics:q}"

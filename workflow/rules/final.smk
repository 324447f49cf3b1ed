# Make the product: model, LAMMPS export, domain, model card, and the certificate if there is one.


rule final:
    input:
        verdict=of_last("verdict.json"),
        model=of_last("model.model"),
        domain=of_last("domain.json"),
        metrics=of_last("metrics.json"),
        labels=labels_of_last,
        certificate=certificate_of,
    output:
        manifest="<campaign>/{system}/final/manifest.json",
    log:
        "<campaign>/{system}/logs/final.log",
    conda:
        "../../envs/mace.yaml"
    resources:
        runtime=sized("final", "runtime_min"),
        mem_mb=sized("final", "memory_mb"),
    params:
        program=SCRIPTS / "final.py",
        campaign=CAMPAIGN.file,
        certificate=lambda wc, input: (
            f"--certificate {quote(input.certificate[0])}" if input.certificate else ""
        ),
    shell:
        "exec python {params.program:q} --campaign {params.campaign:q} --system {wildcards.system}"
        " --threads {threads} --log {log:q} --verdict {input.verdict:q} --model {input.model:q}"
        " --domain {input.domain:q} --metrics {input.metrics:q} --labels {input.labels:q}"
        " {params.certificate} --manifest {output.manifest:q}"

# Decide whether there is another generation: the only checkpoint. Training does not wait for it.
# The second command renews the report page. The page is no output: one that cannot be made stops
# nothing, and with a rule of its own per generation some other job would have to wait for it.


checkpoint verdict:
    input:
        traces=rules.explore.output.traces,
        summary=rules.explore.output.summary,
        selection=rules.select.output.fates,
        labels=labels_with,
        opinions=opinions,
    output:
        verdict=report(
            "<campaign>/{system}/gen{gen}/verdict.json",
            caption="../report/verdict.rst",
            category="Generations",
            labels={"system": "{system}", "generation": "{gen}", "what": "verdict"},
        ),
    log:
        "<campaign>/{system}/logs/gen{gen}-verdict.log",
    conda:
        "../../envs/openmm.yaml"
    params:
        program=SCRIPTS / "verdict.py",
        campaign=CAMPAIGN.file,
        number=lambda wc: int(wc.gen),
        opinions=lambda wc, input: (
            f"--opinions {quote(input.opinions[0])}" if input.opinions else ""
        ),
        show=SCRIPTS / "report.py",
        so_far=lambda wc: [
            f"{ROOT}/{wc.system}/gen{number:03d}/verdict.json"
            for number in range(int(wc.gen) + 1)
        ],
        page=lambda wc: f"{ROOT}/{wc.system}/report.html",
        page_log=lambda wc: f"{ROOT}/{wc.system}/logs/report.log",
    shell:
        "python {params.program:q} --campaign {params.campaign:q} --system {wildcards.system}"
        " --generation {params.number} --threads {threads} --log {log:q} --traces {input.traces:q}"
        " --summary {input.summary:q} --selection {input.selection:q} --labels {input.labels:q} {params.opinions} --verdict {output.verdict:q}\n"
        "python {params.show:q} --campaign {params.campaign:q} --system {wildcards.system}"
        " --threads {threads} --log {params.page_log:q} --verdicts {params.so_far:q}"
        " --page {params.page:q} || echo 'the page could not be made; the campaign goes on' >&2"

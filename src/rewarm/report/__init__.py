"""The report: a finished run's folder in, one HTML page out that lets a stranger judge the run.

`page.report_page` reads only what the stages wrote (JSON, JSON lines, tokenizers) and needs no torch. What a run lacks, the page says.
"""

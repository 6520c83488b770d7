#!/usr/bin/env python3
"""report.py FIGURES README - turns lines of JSON into the README's tables, each between its markers; one that has no figures stays.

A figure may name its `table`; the markers of a table that is not there yet go to the end.
"""
import json, os, platform, sys

END = "<!-- end of benchmarks -->"


def begin(table):
    return f"<!-- benchmarks{', ' + table if table else ''}: written by benches/run -->"


def cell(row):
    value = f"{row['value']:,.3g} {row['unit']}" if row["value"] < 100 else f"{row['value']:,.0f} {row['unit']}"
    against = f"{row['ratio']:.2f} × {row['against']} ({row['base']:,.4g})" if row.get("ratio") else ""
    met = {True: "met", False: "**missed**", None: ""}[row.get("met")]
    return f"| {row['figure']} | {value} | {against} | {row.get('aim') or ''} | {met} |"


def machine():
    with open("/proc/cpuinfo") as f:
        model = next((line.split(":", 1)[1].strip() for line in f if line.startswith("model name")), platform.machine())
    with open("/proc/meminfo") as f:
        memory = int(f.readline().split()[1]) >> 20
    return f"{os.cpu_count()} × {model}, {memory} GiB, Linux {platform.release().split('-')[0]}"


figures, readme = sys.argv[1:]
with open(figures) as f:
    rows = [json.loads(line) for line in f]
with open(readme) as f:
    text = f.read()
for name in dict.fromkeys(row.get("table") for row in rows):
    mine = [cell(row) for row in rows if row.get("table") == name]
    table = "\n".join([begin(name), f"Measured on {machine()}, everything on this one machine: compare with what stands beside it, not with other machines.",
                       "", "| figure | here | against, in the same run | aim | |", "|---|---|---|---|---|", *mine, END])
    if begin(name) in text:
        head, rest = text.split(begin(name), 1)
        text = head + table + rest.split(END, 1)[1]
    else:
        text = text.rstrip("\n") + "\n\n" + table + "\n"
    print(table)
with open(readme, "w") as f:
    f.write(text)

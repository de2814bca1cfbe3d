#!/usr/bin/env bash
# Ends the Slurm that tests/slurm/start.sh DIR started: its jobs, then each daemon by the pid in its pid file.
set -uo pipefail

dir=$(cd "${1:?usage: stop.sh DIR}" && pwd) || exit 1
export SLURM_CONF=$dir/slurm.conf

[ -s "$dir/ctld.pid" ] && timeout 10 scancel --user="$(id -un)" 2>/dev/null
for _ in $(seq 50); do
    [ -z "$(timeout 5 squeue --noheader 2>/dev/null)" ] && break
    sleep 0.1
done

pids=()
ask() { # PID_FILE PROGRAM: asks that process to end, if it is that program's
    local pid
    [ -s "$1" ] && pid=$(cat "$1") && [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$2" ] || return 0
    kill "$pid" 2>/dev/null && pids+=("$pid")
}
munge_dir=$(cat "$dir/munge.dir" 2>/dev/null)
ask "$dir/n0.pid" slurmd
ask "$dir/n1.pid" slurmd
ask "$dir/ctld.pid" slurmctld
ask "$munge_dir/munged.pid" munged
for pid in "${pids[@]}"; do
    for _ in $(seq 60); do
        kill -0 "$pid" 2>/dev/null || continue 2
        sleep 0.1
    done
    kill -9 "$pid" 2>/dev/null
done
case $munge_dir in /run/upscale-munge.*) rm -rf "$munge_dir" ;; esac
exit 0

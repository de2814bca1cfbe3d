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

end() { # PID_FILE PROGRAM: ends that process if it is that program's
    [ -s "$1" ] || return 0
    local pid
    pid=$(cat "$1")
    [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$2" ] || return 0
    kill "$pid" 2>/dev/null
    for _ in $(seq 50); do
        kill -0 "$pid" 2>/dev/null || return 0
        sleep 0.1
    done
    kill -9 "$pid" 2>/dev/null
}
end "$dir/n0.pid" slurmd
end "$dir/n1.pid" slurmd
end "$dir/ctld.pid" slurmctld
if [ -s "$dir/munge.dir" ]; then
    munge_dir=$(cat "$dir/munge.dir")
    end "$munge_dir/munged.pid" munged
    case $munge_dir in /run/upscale-munge.*) rm -rf "$munge_dir" ;; esac
fi
exit 0

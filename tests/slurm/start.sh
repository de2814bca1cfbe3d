#!/usr/bin/env bash
# Starts a Slurm of its own for the tests: munge, a controller and two node daemons, on the loopback alone.
#
#     tests/slurm/start.sh DIR      fills DIR, prints the line to eval: export SLURM_CONF=…
#     tests/slurm/stop.sh DIR       ends what was started, by its pid files
#
# Exit status 77: it can't be started here (a package is missing, or this is not root), with a line that says why.
set -euo pipefail

dir=${1:?usage: start.sh DIR}
for program in munged slurmctld slurmd sbatch sinfo; do
    command -v "$program" >/dev/null || { echo "no $program here: apt-get install slurm-wlm munge" >&2; exit 77; }
done
[ "$(id -u)" = 0 ] || { echo "slurmd needs root" >&2; exit 77; }

mkdir -p "$dir"/{state,n0,n1}
dir=$(cd "$dir" && pwd)

# munge of our own: another key, socket and pid file than a system's, so that neither disturbs the other.
# munged insists on directories that nobody else may write to, so it gets the only such place for sure: /run.
munge_dir=$(mktemp -d /run/upscale-munge.XXXXXX)
chmod 755 "$munge_dir"
echo "$munge_dir" >"$dir/munge.dir"
head -c 1024 /dev/urandom >"$munge_dir/key"
chmod 600 "$munge_dir/key"
munged --key-file="$munge_dir/key" --socket="$munge_dir/socket" --pid-file="$munge_dir/munged.pid" \
    --log-file="$munge_dir/munged.log" --seed-file="$munge_dir/seed" --num-threads=2 >&2

# Three ports that nothing listens on; below the range that the kernel deals out (ip_local_port_range).
read -r ctld n0 n1 < <(python3 - <<'PY'
import random, socket
found = []
while len(found) < 3:
    port = random.randrange(16000, 31000)
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            continue
    if port not in found:
        found.append(port)
print(*found)
PY
)

host=$(hostname -s)
cat >"$dir/slurm.conf" <<CONF
ClusterName=t
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$ctld
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$munge_dir/socket
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/%n
SlurmctldPidFile=$dir/ctld.pid
SlurmdPidFile=$dir/%n.pid
SlurmctldLogFile=$dir/ctld.log
SlurmdLogFile=$dir/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_min_interval=100000,batch_sched_delay=0,sched_interval=1,bf_interval=1
ReturnToService=2
MpiDefault=none
SlurmdTimeout=30
KillWait=5
MinJobAge=60
NodeName=n0 NodeHostname=$host NodeAddr=127.0.0.1 Port=$n0 CPUs=2 State=UNKNOWN
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$n1 CPUs=2 State=UNKNOWN
PartitionName=main Nodes=n0,n1 Default=YES MaxTime=INFINITE State=UP OverSubscribe=YES:4
CONF
export SLURM_CONF=$dir/slurm.conf
# All that is started must let go of our output, or whoever reads it waits forever.
slurmctld >"$dir/start.log" 2>&1 </dev/null
# DIR/island is another empty directory for each node: storage of the same name that is not shared.
mkdir "$dir/island"
for node in n0 n1; do
    unshare --mount --propagation private sh -c 'mount -t tmpfs none "$1" && exec slurmd -N "$2"' \
        sh "$dir/island" "$node" >>"$dir/start.log" 2>&1 </dev/null || {
        touch "$dir/no_island"
        slurmd -N "$node" >>"$dir/start.log" 2>&1 </dev/null
    }
done

for _ in $(seq 100); do
    if [ "$(sinfo --noheader --Node --format=%T 2>/dev/null | grep -c '^idle$')" = 2 ]; then
        echo "export SLURM_CONF=$SLURM_CONF"
        exit 0
    fi
    sleep 0.1
done
echo "Slurm did not come up; see $dir/*.log" >&2
sinfo >&2 || true
tail -n 20 "$dir"/*.log >&2
"$(dirname "$0")/stop.sh" "$dir"
exit 1

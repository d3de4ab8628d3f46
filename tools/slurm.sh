#!/bin/sh
# Start a Slurm of one machine, or stop it:  tools/slurm.sh start|stop FOLDER   (as root, on Debian; installs what is missing)
# All that it writes is in FOLDER, and SLURM_CONF=FOLDER/slurm.conf selects it. No cgroups, so that a container will do.
set -eu
action=$1 folder=$(mkdir -p "$2" && cd "$2" && pwd)
export SLURM_CONF="$folder/slurm.conf"

stop() {
  for name in slurmd slurmctld munged; do
    if [ -f "$folder/$name.pid" ]; then
      kill "$(cat "$folder/$name.pid")" 2>/dev/null || true
      rm -f "$folder/$name.pid"
    fi
  done
}

start() {
  if ! command -v slurmctld >/dev/null || ! command -v munged >/dev/null; then
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends slurm-wlm munge
  fi
  host=$(hostname -s)
  mkdir -p "$folder/state" "$folder/spool"
  # munged wants a key and a socket that nobody else can write to, in every folder above them.
  [ -f "$folder/munge.key" ] || { umask 077; head -c 128 /dev/urandom > "$folder/munge.key"; }
  munged --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" --pid-file="$folder/munged.pid" \
    --log-file="$folder/munged.log" --seed-file="$folder/munge.seed"
  cat > "$SLURM_CONF" <<END
ClusterName=here
SlurmctldHost=$host
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$folder/munge.socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
ReturnToService=2
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
NodeName=$host CPUs=$(nproc) State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
  chmod 644 "$SLURM_CONF"
  slurmctld
  slurmd
  for _ in $(seq 60); do
    sinfo -h -o '%t' 2>/dev/null | grep -q idle && return
    sleep 1
  done
  tail -n 20 "$folder"/*.log >&2
  return 1
}

case $action in
  start) start ;;
  stop) stop ;;
  *) echo "usage: tools/slurm.sh start|stop FOLDER" >&2; exit 2 ;;
esac

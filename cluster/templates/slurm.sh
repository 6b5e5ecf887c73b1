#!/usr/bin/env bash
# shellcheck disable=SC2016,SC2329 # quoted values must not be expanded; some functions are called indirectly
@DIRECTIVES@
#
# Runs one sweep on a new Ray cluster within one Slurm allocation.
# @HEADER@
#   sbatch FILE          submits the job; `scancel JOB` or its time limit ends it
#   sbatch FILE again    resumes the sweep, because `lagvae run` never repeats a run that has ended
set -euo pipefail

# The values of this job, quoted. The functions below are the same in every script.
@VALUES@

# --- on every node: run Ray until standard input ends -----------------------------------------------------------------

ipv4_address() { # INTERFACE: print the IPv4 address of this node on INTERFACE, or its first address
    local address
    if [[ -n $1 ]]; then
        address=$(ip -4 -o address show dev "$1" | awk '{ split($4, part, "/"); print part[1]; exit }')
    else
        address=$(hostname -I | tr ' ' '\n' | grep -m 1 -E '^[0-9]+(\.[0-9]+){3}$')
    fi
    [[ -n $address ]] || { echo "lagvae: $(hostname) has no IPv4 address ${1:+on $1}" >&2; return 1; }
    echo "$address"
}

end_node() {
    trap '' TERM
    [[ -z $lifeline ]] || kill "$lifeline" 2> /dev/null || true
    if [[ -n $ray ]]; then
        kill -TERM "$ray" 2> /dev/null || true
        wait "$ray" || true
    fi
    rm -rf -- "$folder"
}

run_node() { # HEAD_ADDRESS PORT CLIENT_PORT CPUS GPUS OBJECT_STORE_BYTES FOLDER INTERFACE PATIENCE
    set -euo pipefail
    local head=$1 port=$2 client_port=$3 node_address
    local shared=(--num-cpus="$4" --num-gpus="$5" --object-store-memory="$6" --disable-usage-stats --block)
    node_address=$(ipv4_address "$8")
    folder=$(mktemp -d "$7/lvXXXXXX")
    ray=
    lifeline=
    trap 'end_node' EXIT
    trap 'exit 0' TERM
    trap '' INT
    # The token arrives on standard input, so no argument, environment variable or shared folder contains it.
    (umask 077; head -n 1 > "$folder/token")
    unset RAY_AUTH_TOKEN RAY_ADDRESS
    export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$folder/token"
    if [[ $SLURM_PROCID == 0 ]]; then
        set -- --head --port="$port" --ray-client-server-port="$client_port" --include-dashboard=false
    else
        local deadline=$((SECONDS + $9))
        until (exec 4<> "/dev/tcp/$head/$port") 2> /dev/null; do
            ((SECONDS < deadline)) || { echo "lagvae: no head answers at $head:$port" >&2; exit 1; }
            sleep 1
        done
        set -- --address="$head:$port"
    fi
    exec 3<&0
    { while read -r _ <&3; do :; done; kill -TERM $$; } &
    lifeline=$!
    ray start "$@" --node-ip-address="$node_address" --temp-dir="$folder" "${shared[@]}" \
        < /dev/null > "$folder/start.log" 2>&1 &
    ray=$!
    local code=0
    wait "$ray" || code=$?
    ray=
    echo "lagvae: Ray ended on $(hostname) with exit code $code" >&2
    tail -n 20 "$folder/start.log" >&2
    exit 1
}

# --- on the first node: create the token, start the nodes, run the sweep ----------------------------------------------

stopped=
driver=
nodes_pid=
private=$(mktemp -d "$local_folder/lvXXXXXX")

interrupt_driver() { # REASON
    stopped=$1
    [[ -z $driver ]] || kill -INT "$driver" 2> /dev/null || true
    deadline=$((SECONDS + grace))
}

stop_everything() {
    trap '' USR1 TERM INT
    [[ -z $driver ]] || kill -KILL "$driver" 2> /dev/null || true
    exec 9>&- # when standard input ends, the nodes stop Ray and clean up
    if [[ -n $nodes_pid ]]; then
        local deadline=$((SECONDS + 20))
        while kill -0 "$nodes_pid" 2> /dev/null && ((SECONDS < deadline)); do sleep 0.2; done
        kill -TERM "$nodes_pid" 2> /dev/null || true
        wait "$nodes_pid" || true
        nodes_pid=
    fi
    rm -rf -- "$private"
}

# Run a command until it ends, and set $code to its exit code. Interrupt it near the time limit, or if Ray has ended.
supervise() {
    "$@" 9>&- &
    driver=$!
    while kill -0 "$driver" 2> /dev/null; do
        if [[ -n $stopped ]]; then
            ((SECONDS < deadline)) || kill -KILL "$driver" 2> /dev/null || true
        elif ! kill -0 "$nodes_pid" 2> /dev/null; then
            interrupt_driver 'Ray has ended'
        fi
        sleep 0.5 9>&- &
        wait $! || true
    done
    code=0
    wait "$driver" || code=$?
    driver=
}

trap stop_everything EXIT
trap 'interrupt_driver "the time limit is near"' USR1
trap 'interrupt_driver "it received a signal"' TERM INT
set -m # gives each background process its own process group, so that it does not ignore SIGINT

@ENVIRONMENT@

# The port is below the ephemeral ports of Linux. Two jobs on one node collide only if their ids differ by a multiple
# of 6000.
port=$((20000 + 2 * (SLURM_JOB_ID % 6000)))
head_address=$(ipv4_address "$interface")
address=$head_address:$port
echo "lagvae: job $SLURM_JOB_ID, start $((${SLURM_RESTART_COUNT:-0} + 1)), $nodes node(s), head $(hostname) at $address"

(umask 077; od -An -v -N32 -w32 -tx1 /dev/urandom | tr -d ' ' > "$private/token")
unset RAY_AUTH_TOKEN RAY_ADDRESS
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH="$private/token"

mkfifo "$private/lifeline"
srun --nodes="$nodes" --ntasks="$nodes" --ntasks-per-node=1 --cpus-per-task="$cpus" --mpi=none \
    --kill-on-bad-exit=0 --wait=0 \
    bash -c "$(declare -f ipv4_address end_node run_node); run_node \"\$@\"" lagvae-node \
    "$head_address" "$port" "$((port + 1))" "$cpus" "$gpus" "$object_store" "$local_folder" "$interface" "$patience" \
    < "$private/lifeline" &
nodes_pid=$!
exec 9> "$private/lifeline"
cat "$private/token" >&9

supervise lagvae cluster wait --nodes="$nodes" --seconds="$patience" -- "$address"
if [[ $code == 0 && -z $stopped ]]; then
    supervise lagvae run --address="$address" --results="$results" "${overrides[@]}" -- "$spec"
fi

stop_everything
trap - EXIT
if [[ -n $stopped ]]; then
    if [[ $stopped == 'the time limit is near' ]] && ((${SLURM_RESTART_COUNT:-0} < restarts)); then
        echo "lagvae: requeued because $stopped" >&2
        scontrol requeue "$SLURM_JOB_ID"
        exit 0
    fi
    echo "lagvae: stopped because $stopped; submit the job again to resume the sweep" >&2
    ((code != 0)) || code=1
fi
exit "$code"

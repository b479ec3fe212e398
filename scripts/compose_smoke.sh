#!/usr/bin/env bash
# Builds the image, runs docker-compose.yml for real and attacks it: one line for each check, exit
# status 1 if one failed. Needs Docker, Compose and curl; a project name, a port and an image tag of
# its own keep it away from a deployment on the same machine, and all is taken down at the end.
#
#   scripts/compose_smoke.sh
#   COMPOSE=docker-compose scripts/compose_smoke.sh       # Compose 1.29
#   TORCH_INDEX_URL=... scripts/compose_smoke.sh          # build arguments as for docker compose
#
# PHOTO is what is captioned, SMOKE_PORT where, SMOKE_PROJECT names the containers, and
# SMOKE_BUILD=no takes the image that CAPTIONER_IMAGE names as it is.
set -uo pipefail
cd "$(dirname "$0")/.." || exit

COMPOSE=${COMPOSE:-docker compose}
PHOTO=${PHOTO:-docs/pictures/flickr8k.jpg}
START_SECONDS=180
export COMPOSE_PROJECT_NAME=${SMOKE_PROJECT:-captioner-smoke}
export CAPTIONER_IMAGE=${CAPTIONER_IMAGE:-captioner:smoke}
export PORT=${SMOKE_PORT:-18000} DOCKER_BUILDKIT=1 COMPOSE_DOCKER_CLI_BUILD=1
unset CHECKPOINT BIND_ADDRESS
URL=http://127.0.0.1:$PORT
SCRATCH=$(mktemp -d)
chmod 755 "$SCRATCH" # the service's user looks into it
FAILED=0

compose() { $COMPOSE "$@"; }
inside() { compose exec -T captioner "$@"; }
container() { compose ps -aq captioner; }
state() { docker inspect -f "$1" "$(container)"; }
health() { state '{{.State.Health.Status}}' 2>/dev/null; }
caption() { curl -sS -m 60 -F "image=@$PHOTO" "$URL/caption"; }
status_of() { curl -sS -m 60 -o /dev/null -w '%{http_code}' -F "image=@$1" "$URL/caption"; }

check() { # check WHAT COMMAND...: the command's output is shown where it fails
    local what=$1 said
    shift
    if said=$("$@" 2>&1); then
        echo "ok      $what"
    else
        echo "FAILED  $what"
        tail -n 15 <<<"${said:-(no output)}" | while IFS= read -r line; do echo "          $line"; done
        FAILED=1
    fi
}
equals() { [[ $1 == "$2" ]] || { echo "$1, and not $2"; return 1; }; }
refused() { ! "$@" || { echo "was not refused: $*"; return 1; }; }
await_health() { # await_health healthy [SECONDS]
    local end=$((SECONDS + ${2:-$START_SECONDS}))
    until [[ $(health) == "$1" ]]; do
        ((SECONDS < end)) || { echo "is $(health) and not $1"; compose logs --tail 10; return 1; }
        sleep 0.5
    done
}
tear_down() {
    compose down -v --remove-orphans -t 5 >/dev/null 2>&1
    rm -rf "$SCRATCH"
}
trap tear_down EXIT
trap 'exit 130' INT TERM

up() { compose up -d captioner >"$SCRATCH/up.log" 2>&1 || { cat "$SCRATCH/up.log"; return 1; }; }

no_capabilities() {
    inside python -c '
import pathlib
for status in pathlib.Path("/proc").glob("[0-9]*/status"):
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    held = {name: lines[name].strip() for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
    assert not any(int(mask, 16) for mask in held.values()), (lines["Name"], held)
    assert lines["NoNewPrivs"].strip() == "1", lines["Name"]
    assert set(lines["Uid"].split()) == {"10001"}, (lines["Name"], lines["Uid"])'
}
writes_are_refused() {
    inside python -c '
import os, pathlib
tmpfs = {line.split()[1] for line in open("/proc/mounts") if line.split()[2] in ("tmpfs", "proc", "devpts", "mqueue")}
written, tried = [], 0
for folder, below, _ in os.walk("/"):
    if any(folder == one or folder.startswith(one + "/") for one in tmpfs):
        below.clear()
        continue
    tried += 1
    try:
        (pathlib.Path(folder) / "written").write_text("x")
        written.append(folder)
    except OSError:
        pass
assert not written, written
assert tried > 500, tried
pathlib.Path("/tmp/written").write_text("x")'
}
captions_inside() {
    local served
    served=$(caption | sed -E 's/.*"caption" *: *"([^"]*)".*/\1/')
    inside sh -c 'cat >/tmp/photo.jpg' <"$PHOTO"
    equals "$(inside sh -c 'cd /tmp && captioner caption photo.jpg 2>/dev/null')" "photo.jpg	$served" &&
        equals "$(inside sh -c 'cd /tmp && python -c "
import captioner
print(captioner.load().caption([\"photo.jpg\"])[0].text)"')" "$served"
}
tmpfs_is_bounded() {
    inside python -c '
import errno
try:
    with open("/tmp/large", "wb") as file:
        for _ in range(1000):
            file.write(bytes(1 << 20))
    raise SystemExit("a gigabyte went into /tmp")
except OSError as problem:
    assert problem.errno == errno.ENOSPC, problem
finally:
    import os
    os.unlink("/tmp/large")'
}
nothing_of_training_is_there() {
    inside python -c '
import importlib.util, shutil
tools = [name for name in ("c++", "g++", "clang++", "cc", "gcc", "ld") if shutil.which(name)]
packages = ("torch", "torchvision", "timm", "safetensors", "matplotlib", "pycocoevalcap", "pip")
found = [name for name in packages if importlib.util.find_spec(name, None)]
assert not tools + found, tools + found'
}
ready_within() { # ready_within SECONDS: from the start of a container to /ready
    compose stop captioner >/dev/null 2>&1
    local began
    compose start captioner >/dev/null 2>&1 || return 1
    began=$(date -d "$(state '{{.State.StartedAt}}')" +%s%N)
    until [[ $(curl -sS -m 2 -o /dev/null -w '%{http_code}' "$URL/ready" 2>/dev/null) == 200 ]]; do
        (($(date +%s%N) < began + ($1 + 20) * 1000000000)) || { echo "it never is"; return 1; }
        sleep 0.05
    done
    local took=$((($(date +%s%N) - began) / 1000000))
    echo "# ready $took ms after its start, with $(inside python -c '
import pathlib
print(sum(int(line.split()[1]) for one in pathlib.Path("/proc").glob("[0-9]*/smaps_rollup")
          for line in one.read_text().splitlines() if line.startswith("Pss:")) // 1000)') MB" >"$SCRATCH/start"
    ((took <= $1 * 1000)) || { cat "$SCRATCH/start"; return 1; }
}
serving_process() { # its number inside: the process that said last that it listens
    compose logs --no-color captioner 2>/dev/null |
        sed -n 's/.*"pid": *\([0-9]*\), *"event": *"listening".*/\1/p' | tail -n 1
}
killed_process_is_replaced() {
    local lost log=$SCRATCH/while_killed before
    lost=$(serving_process)
    before=$(state '{{.RestartCount}}')
    inside python -c 'import os, sys; os.kill(int(sys.argv[1]), 9)' "$lost" || return 1
    for _ in {1..20}; do status_of "$PHOTO"; echo; sleep 0.2; done >"$log" 2>&1
    await_health healthy || return 1
    refused equals "$(serving_process)" "$lost" >/dev/null || { echo "nobody took its place"; return 1; }
    equals "$(state '{{.RestartCount}}')" "$before" || return 1
    # The one request that the process was at may be lost with it.
    (($(grep -vc '^200$' "$log") <= 1)) || { sort "$log" | uniq -c; return 1; }
}
killed_service_is_restarted() {
    local before
    before=$(state '{{.RestartCount}}')
    inside python -c '
import os, pathlib
first = [one for one in pathlib.Path("/proc").glob("[0-9]*")
         if "\nPPid:\t1\n" in (one / "status").read_text() and b"serving" in (one / "cmdline").read_bytes()]
os.kill(int(first[0].name), 9)'
    for _ in {1..60}; do [[ $(state '{{.RestartCount}}') == "$before" ]] || break; sleep 0.5; done
    equals "$(state '{{.RestartCount}}')" "$((before + 1))" && await_health healthy &&
        grep '"caption"' <<<"$(caption)"
}
sigterm_under_load() {
    # The load comes from a container of its own: nothing stands between it and the service.
    local photo address load
    photo=$(base64 -w0 <"$PHOTO")
    address=$(state '{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}')
    {
        echo "photo = '$photo'"
        echo "address = '$address'"
        cat <<'PYTHON'
import base64, collections, http.client, threading, time
body = base64.b64decode(photo)
counts, lost = collections.Counter(), []

def ask():
    while True:
        connection = http.client.HTTPConnection(address, 8000, timeout=60)
        try:
            connection.connect()
        except OSError:  # nobody listens any more: not accepted
            counts["not accepted"] += 1
            return
        try:
            connection.request("POST", "/caption", body, {"Content-Type": "image/jpeg"})
            answer = connection.getresponse()
            answer.read()
            counts[answer.status] += 1
            if answer.status == 503:
                return
        except OSError as problem:
            lost.append(repr(problem))
            return
        finally:
            connection.close()

threads = [threading.Thread(target=ask) for _ in range(16)]
for thread in threads:
    thread.start()
print("loading", flush=True)
for thread in threads:
    thread.join()
print(dict(counts), lost)
assert not lost, lost
assert set(counts) <= {200, 503, "not accepted"}, counts
assert counts[200] > 16, counts
PYTHON
    } >"$SCRATCH/load.py"
    compose run --rm -T --no-deps --entrypoint python check - <"$SCRATCH/load.py" >"$SCRATCH/load.log" 2>&1 &
    load=$!
    for _ in {1..120}; do grep -q loading "$SCRATCH/load.log" && break; sleep 0.5; done
    sleep 4
    compose stop captioner >/dev/null 2>&1
    wait "$load" || { cat "$SCRATCH/load.log"; return 1; }
    echo "# $(tail -n 1 "$SCRATCH/load.log")" >"$SCRATCH/note"
    equals "$(state '{{.State.ExitCode}}')" 0
}
hostile_image_costs_one_request() {
    # 19,000 x 19,000 pixels in a megabyte: decoded they need more than the container has.
    local status container
    container=$(container)
    inside python -c '
import struct, sys, zlib
def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
side, packer = 19_000, zlib.compressobj(9)
rows = b"".join([*(packer.compress(bytes(1 + 3 * side)) for _ in range(side)), packer.flush()])
header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
sys.stdout.buffer.write(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
' >"$SCRATCH/hostile.png"
    for _ in {1..40}; do status_of "$PHOTO"; echo; sleep 0.1; done >"$SCRATCH/beside" 2>&1 &
    status=$(status_of "$SCRATCH/hostile.png")
    wait $!
    equals "$status" 422 || return 1
    equals "$(sort -u "$SCRATCH/beside")" 200 || return 1
    equals "$(container) $(state '{{.RestartCount}} {{.State.Health.Status}}')" "$container 0 healthy" || return 1
    # Two where the kernel's kill was taken for somebody else's, and the image got a second try.
    grep '^caption_decode_killed_total [12]' <<<"$(curl -sS "$URL/metrics")"
}
wrong_checkpoint_fails() { # wrong_checkpoint_fails PATH WORDS
    local said
    compose down >/dev/null 2>&1
    if said=$(CHECKPOINT=$1 compose up -d captioner 2>&1); then
        echo "it started: $said"
        return 1
    fi
    said+=$(CHECKPOINT=$1 compose logs --no-color check 2>&1)
    grep -q "$2" <<<"$said" || { echo "$said"; return 1; }
    sleep 3
    [[ $(CHECKPOINT=$1 compose ps --services --filter status=running 2>/dev/null) != *captioner* ]] ||
        { echo "the service runs"; return 1; }
    (($(grep -c 'error: ' <<<"$said") <= 1)) || { echo "$said"; return 1; }
}
own_checkpoint_is_served() {
    local own=$SCRATCH/own/best
    mkdir -p "$SCRATCH/own"
    docker cp "$(container):/checkpoints/default" "$own" >/dev/null && chmod -R a+rX "$SCRATCH/own" || return 1
    compose down >/dev/null 2>&1 # 1.29 cannot replace a container of a newer engine
    CHECKPOINT=$own up && await_health healthy && grep '"name": *"own"' <<<"$(caption)" || return 1
    refused inside touch "/checkpoints/$own/deployable.json"
}

echo "# $(docker version --format 'engine {{.Server.Version}}'), Compose $(compose version --short)"
if [[ ${SMOKE_BUILD:-yes} == yes ]]; then
    began=$SECONDS
    check "the image builds" compose build captioner
    echo "# that took $((SECONDS - began)) s"
fi
MEGABYTES=$(($(docker image inspect -f '{{.Size}}' "$CAPTIONER_IMAGE") / 1000000))
check "the image has no more than 450 MB: $MEGABYTES" test "$MEGABYTES" -le 450
compose down -v --remove-orphans >/dev/null 2>&1

began=$SECONDS
check "it comes up" up
check "it becomes healthy" await_health healthy
echo "# from nothing to healthy: $((SECONDS - began)) s"
check "a photograph gets a caption" grep -q '"caption"' <(caption)
check "the command and the library inside caption as the service does" captions_inside
check "the port is this machine's alone" grep -qx "127.0.0.1:$PORT" <(compose port captioner 8000)
check "uid 10001, no capabilities, no new privileges, in every process" no_capabilities
check "the root is read-only: nothing can be written but in memory" writes_are_refused
check "the memory for files is bounded" tmpfs_is_bounded
check "the limits are set" refused grep -qw 0 <(state '{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}} {{.HostConfig.PidsLimit}}')
check "neither a compiler nor PyTorch is there" nothing_of_training_is_there
check "it is ready within 5 s of its start" ready_within 5
[[ ! -e $SCRATCH/start ]] || cat "$SCRATCH/start"
check "it becomes healthy again" await_health healthy
check "a killed serving process is replaced while the others serve" killed_process_is_replaced
check "a killed service is restarted and healthy again" killed_service_is_restarted
check "SIGTERM under load: every accepted request is answered, exit status 0" sigterm_under_load
[[ ! -e $SCRATCH/note ]] || cat "$SCRATCH/note"

check "a checkpoint of one's own is served" own_checkpoint_is_served
check "a folder that is not there is a failed start" wrong_checkpoint_fails "$SCRATCH/nowhere" "does not exist\|holds n"
check "a folder that is no checkpoint is one line and a failed start" wrong_checkpoint_fails "$PWD/docs" "holds n"

# The image is let through, to where only the memory of the container stops it.
export MEMORY=1200m CAPTIONER_DECODE_MEMORY_BYTES=1000000000000 CAPTIONER_PIXEL_LIMIT=500000000
export CAPTIONER_DECODE_WORKERS=2
compose down >/dev/null 2>&1
check "it comes up with little memory and weak limits" up
check "it becomes healthy" await_health healthy
check "an image that exhausts the memory costs its own request alone" hostile_image_costs_one_request

if ((FAILED)); then echo "# FAILED"; else echo "# all is well, in $SECONDS s"; fi
exit $FAILED

#!/usr/bin/env bash
# Builds the image where no registry of images can be reached, on a stand-in for its base image, and runs a job in it.
# Needs root, buildah, debootstrap and util-linux; the Python 3.10 is that of .venv.
#   docker/verify.sh [FOLDER]   keeps images and layers in FOLDER for the next time
set -euo pipefail
cd -P "$(dirname "$0")/.."
folder=${1:-$(mktemp -d)}
base=docker.io/library/python:3.10-slim-bookworm # what the Dockerfile asks for
image=localhost/secretflow-worker
[[ -n ${1:-} ]] || trap 'b rm --all >/dev/null; b rmi --all --force >/dev/null; rm -rf --one-file-system "$folder"' EXIT

b() { buildah --root "$folder/images" --runroot "$folder/run" --storage-driver overlay "$@"; }

# Debian without anything, the libraries that a Python is linked to, and a Python 3.10 where the official image has it.
stand_in() {
    local container root python certificates=/etc/ssl/certs/ca-certificates.crt
    local libraries=ca-certificates,libbz2-1.0,libffi8,liblzma5,libncursesw6,libnsl2,libreadline8,libsqlite3-0,libssl3,libuuid1,zlib1g
    python=$(.venv/bin/python -c 'import sys; print(sys.base_prefix)')
    container=$(b from scratch)
    root=$(b mount "$container")
    debootstrap --variant=minbase --include="$libraries" bookworm "$root" >/dev/null
    rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
    tar --create --directory "$python" --exclude=site-packages --exclude=lib/python3.10/test --exclude='bin/pip*' \
        bin lib | tar --extract --directory "$root/usr/local" --no-same-owner
    install -m 0644 "$certificates" "$root$certificates" # those that this machine trusts
    chroot "$root" sh -c 'ldconfig; PIP_ROOT_USER_ACTION=ignore python3.10 -m ensurepip >/dev/null; ln -sf pip3 /usr/local/bin/pip'
    b unmount "$container" >/dev/null
    b config --env PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin \
        --env SSL_CERT_FILE=$certificates --env PIP_CERT=$certificates "$container"
    b commit --quiet --rm "$container" "$base" >/dev/null
}

# Without root, and with a root file system that cannot be written but for the volumes and /tmp.
in_read_only() {
    local environment
    mapfile -t environment < <(b inspect --format '{{range .OCIv1.Config.Env}}{{.}}{{"\n"}}{{end}}' "$container" | grep =)
    unshare --mount bash -euc '
        root=$1; shift
        mount --bind "$root" "$root"
        mount --options remount,bind,ro "$root"
        mount --rbind /dev "$root/dev"
        mount --types proc proc "$root/proc"
        for volume in /data /scratch /var/lib/sfworker /tmp; do
            mount --types tmpfs --options mode=1777 tmpfs "$root$volume"
        done
        exec chroot --userspec=10001:10001 "$root" env --ignore-environment "$@"' - "$root" "${environment[@]}" "$@"
}

job='
cd /data
printf "uid,age\n0007,34\n0012,51\n0031,29\n" > alice.csv
printf "uid,visits\n0031,1\n0007,5\n0090,9\n" > bob.csv
printf "%s\n" "sf_init_config: {parties: [alice, bob]}" "task_config:" "  task_type: psi" \
    "  keys: {alice: [uid], bob: [uid]}" "  receiver: alice" \
    "  input_paths: {alice: alice.csv, bob: bob.csv}" \
    "  output_paths: {alice: alice-out.csv, bob: bob-out.csv}" > /tmp/match.yaml
sfworker run /tmp/match.yaml
test "$(cut -d , -f 1 alice-out.csv | sort | paste -s)" = "$(printf "0007\t0031\tuid")"
'

b inspect --type image "$base" >/dev/null 2>&1 || stand_in
b bud --isolation chroot --format docker --pull-never --layers --file docker/Dockerfile --tag "$image" .
container=$(b from --pull-never "$image")
root=$(b mount "$container")
b run --isolation chroot "$container" -- sh -euc "$job"
in_read_only sh -euc "$job"
b rm "$container" >/dev/null
echo "The image is built, and a job runs in it, also where the root file system is read-only."

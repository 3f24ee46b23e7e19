#!/bin/sh
# Makes a certificate for each of two parties in /certs/PARTY, and tells it to the other, as a telephone call would.
set -eu
cd /certs
for party in "$1" "$2"; do
    [ -e "$party/$party.crt" ] || sfworker certs "$party" --out "$party" | tail -n 1 > "$party/fingerprint"
done
introduce() { # to $1: $2
    cp "$2/$2.crt" "$1/"
    echo "$2: {host: $2, port: 9443, certificate: $2.crt, fingerprints: [$(cat "$2/fingerprint")]}" > "$1/parties.yaml"
}
introduce "$1" "$2"
introduce "$2" "$1"
chown -R 10001:10001 "$1" "$2" # the user of the image

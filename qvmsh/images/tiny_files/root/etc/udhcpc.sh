#!/bin/sh
# What udhcpc calls with a lease: $ip, $mask, $router, $dns, $interface are in the environment.
[ "$1" = bound ] || [ "$1" = renew ] || exit 0
# shellcheck disable=SC2154
ip addr replace "$ip/${mask:-24}" dev "$interface"
[ -n "$router" ] && ip route replace default via "${router%% *}" dev "$interface"
# shellcheck disable=SC2154
for server in $dns; do echo "nameserver $server"; done > /etc/resolv.conf

#!/bin/busybox sh
# The first program of a virtual machine.
export PATH=/bin
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
while read -r module; do insmod "/modules/$module" || echo "failed: no module $module"; done </modules/order
ip link set lo up
if ip link set eth0 up 2>/dev/null; then
    ip addr add 10.0.2.15/24 dev eth0
fi
echo booted
export BLOCKTREE_PASSPHRASE_FILE=/passphrase
xtask guest "$@" || echo "failed: xtask guest $*"
poweroff -f

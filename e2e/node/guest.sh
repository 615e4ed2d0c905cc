# What a shell on the node begins with: the paths of what stage.sh has put into the folder. Sourced.

export PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin HOME=/root MINKE_CACHE=/host/cache
# Programs run from a disk as those of a node do.
cp /host/minke /host/crictl /usr/local/bin/
[ ! -e /host/cc ] || cp /host/cc /usr/local/bin/
export MINKE=/usr/local/bin/minke CRICTL=/usr/local/bin/crictl
# On a disk: /tmp is a tmpfs, which counts otherwise.
export TMPDIR=/var/tmp
# Things take longer there.
export PATIENCE=${PATIENCE:-3}
uname -sr

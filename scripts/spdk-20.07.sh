# shellcheck shell=bash disable=SC2034
# The recipe by which scripts/bootstrap builds Debian's SPDK: what is fetched, how it is compiled and what is kept.
# The name of the result carries a hash of this file's code, so a change here leads to a new build, never to a tree that
# was built in another way and is taken for this one. Sourced; it runs nothing by itself.

# Debian has no package of SPDK, but its source package `ceph` carries SPDK v20.07 with DPDK 20.05 and ISA-L.
RECIPE_VERSION=20.07
RECIPE_SUITE=trixie
RECIPE_SOURCE=ceph
RECIPE_TARBALL=ceph_18.2.7+ds.orig.tar.xz
RECIPE_SHA256=71c0795fa0d6312ec7b57dee4031559b7e62e086a78e6ae1ad8549e0b351e28f

# x86-64-v3 (AVX2) runs on every machine of the last decade and in the lab's emulated CPU; `native` would not.
RECIPE_CONFIGURE="--target-arch=x86-64-v3 --disable-tests --disable-unit-tests --with-rdma --with-uring
    --without-vhost --without-virtio"
# Which mends are in: ffi/spdk-sys/build.rs takes a tree with others for one that was not mended.
RECIPE_MENDS=2
RECIPE_DRIVERS="bus bus/pci bus/vdev mempool mempool/ring
    net net/af_packet net/memif net/ring net/tap net/virtio"

# Only these packages are needed for this build and for nothing else.
RECIPE_PACKAGES="debian-archive-keyring xz-utils meson ninja-build python3-pyelftools procps"

# How many steps the compilation has, for the progress line, and what the build takes on the disk at its height.
RECIPE_STEPS=650
RECIPE_DISK_MIB=800

# The drivers of the network ports; mlx5 only where the machine has its headers.
recipe_drivers() {
    local drivers=$RECIPE_DRIVERS
    if [ -e /usr/include/infiniband/mlx5dv.h ]; then
        drivers="$drivers common common/mlx5 net/mlx5"
    fi
    echo "$drivers" | xargs
}

# recipe_unpack TARBALL DIR
recipe_unpack() {
    tar -xJf "$1" -C "$2" --strip-components=3 --no-same-owner --wildcards --no-wildcards-match-slash '*/src/spdk' &&
        # SPDK switches off the libraries of DPDK that it does not use. The tap driver needs this one.
        sed -i '/^build = false$/d; /^reason = .not needed by SPDK.$/d' "$2/dpdk/lib/librte_gso/meson.build" &&
        recipe_mend "$2" &&
        # The tests as a whole want CUnit. Only bdevperf is built from them, see below.
        sed -i '/^DIRS-y += test$/d' "$2/Makefile"
}

# recipe_mend DIR
# Two faults of v20.07 that make a drive unusable, four by which one host ends or stops the others, and one by which it slows
# them. `.mended` tells our build scripts that the first six are gone.
recipe_mend() {
    # A queue pair that gets the number of an earlier one inherits its shadow doorbells, and on a controller that has them
    # (QEMU's, those of some clouds) it may look full before its first command and wait for ever. Later releases reset
    # them, from v21.04 on.
    sed -i 's|^\t\tpqpair->flags.has_shadow_doorbell = 1;|&\
\t\t*pqpair->shadow_doorbell.sq_tdbl = *pqpair->shadow_doorbell.sq_eventidx = 0;\
\t\t*pqpair->shadow_doorbell.cq_hdbl = *pqpair->shadow_doorbell.cq_eventidx = 0;|' "$1/lib/nvme/nvme_pcie.c" &&
        grep -q 'shadow_doorbell.cq_hdbl = \*' "$1/lib/nvme/nvme_pcie.c" &&
        # The rings ask for polled completions, which the kernel refuses on drives without queues for polling: nearly all.
        # From v20.10 on they do not.
        sed -i '/io_uring_queue_init/s/IORING_SETUP_IOPOLL/0/' "$1/module/bdev/uring/bdev_uring.c" &&
        grep -q 'io_uring_queue_init(SPDK_URING_QUEUE_DEPTH, &ch->uring, 0)' "$1/module/bdev/uring/bdev_uring.c" &&
        # The last words to a host that has hung up cannot be written, and the queue pair was given back where its caller
        # still used it: whoever sent nonsense and vanished ended the target. Left to be noticed by the next look at the socket.
        sed -i 's|_pdu_write_done(pdu, -1);|_pdu_write_done(pdu, 0);|' "$1/lib/nvmf/tcp.c" &&
        [ "$(grep -c '_pdu_write_done(pdu, 0);' "$1/lib/nvmf/tcp.c")" = 2 ] &&
        # A command whose data are nowhere took the first of those that wait for a buffer out of their queue, which need not
        # be it: another host then waited for ever.
        sed -i 's|STAILQ_REMOVE_HEAD(&group->pending_buf_queue, buf_link);|STAILQ_REMOVE(\&group->pending_buf_queue, \&tcp_req->req, spdk_nvmf_request, buf_link);|' \
            "$1/lib/nvmf/tcp.c" &&
        [ "$(grep -c 'STAILQ_REMOVE(&group->pending_buf_queue, &tcp_req->req, ' "$1/lib/nvmf/tcp.c")" = 3 ] &&
        # Half of a transport's buffers could lie in the cache of each core, where no other core gets them.
        sed -i '/data_buf_pool = spdk_mempool_create(/,/;$/s/SPDK_MEMPOOL_DEFAULT_CACHE_SIZE/0/' "$1/lib/nvmf/transport.c" &&
        [ "$(grep -c 'SPDK_MEMPOOL_DEFAULT_CACHE_SIZE' "$1/lib/nvmf/transport.c")" = 0 ] &&
        recipe_mend_buffers "$1/lib/nvmf/tcp.c" &&
        recipe_mend_flush "$1/module/sock/posix/posix.c" &&
        echo "$RECIPE_MENDS" >"$1/.mended"
}

# recipe_mend_buffers FILE
# A host that asked for much and then took nothing, or wrote much and never sent it, had all buffers of the transport, and the
# other hosts got none. Now a queue pair gets the next one only while it has no more than a quarter of what is left, or one; behind
# one that has to wait, the others go on in their order. What a queue pair's host asks for meanwhile stays in the socket, unless
# data are due that come behind it. What is left is counted once for each turn of a poll group.
recipe_mend_buffers() {
    sed -i '
/^\tTAILQ_HEAD(, spdk_nvmf_tcp_qpair)\tawait_req;$/a\
\tint\t\t\t\t\tbuffers_left;
/^static bool nvmf_tcp_req_process(/i\
static struct spdk_nvmf_request *\
nvmf_tcp_next_for_buffer(struct spdk_nvmf_transport_poll_group *group)\
{\
\tstruct spdk_nvmf_tcp_poll_group *tgroup = SPDK_CONTAINEROF(group, struct spdk_nvmf_tcp_poll_group, group);\
\tstruct spdk_nvmf_request *req;\
\
\tSTAILQ_FOREACH(req, &group->pending_buf_queue, buf_link) {\
\t\tstruct spdk_nvmf_tcp_qpair *tqpair = SPDK_CONTAINEROF(req->qpair, struct spdk_nvmf_tcp_qpair, qpair);\
\t\tint has = tqpair->resource_count - tqpair->state_cntr[TCP_REQUEST_STATE_FREE] -\
\t\t\t  tqpair->state_cntr[TCP_REQUEST_STATE_NEED_BUFFER];\
\
\t\tif (has > 1 \&\& tgroup->buffers_left < 0) {\
\t\t\ttgroup->buffers_left = spdk_mempool_count(group->transport->data_buf_pool) + group->buf_cache_count;\
\t\t}\
\t\tif (has <= 1 || has * 4 <= tgroup->buffers_left) {\
\t\t\treturn req;\
\t\t}\
\t}\
\treturn NULL;\
}\

s/(&tcp_req->req != STAILQ_FIRST(&group->pending_buf_queue))/(\&tcp_req->req != nvmf_tcp_next_for_buffer(group))/
/^\t\t\t\/\* If data is transferring from host to controller, we need to do a transfer from the host. \*\/$/i\
\t\t\tif (tcp_req->req.data_from_pool \&\& tqpair->group->buffers_left > 0) {\
\t\t\t\ttqpair->group->buffers_left--;\
\t\t\t}
s/^\tstruct spdk_nvmf_request \*req, \*req_tmp;$/\tstruct spdk_nvmf_request *req;/
s/^\tSTAILQ_FOREACH_SAFE(req, &group->pending_buf_queue, buf_link, req_tmp) {$/\ttgroup->buffers_left = -1;\
\twhile ((req = nvmf_tcp_next_for_buffer(group)) != NULL) {/
/^\t\tprev_state = tqpair->recv_state;$/a\
\t\tif (prev_state == NVME_TCP_PDU_RECV_STATE_AWAIT_PDU_READY \&\&\
\t\t    tqpair->state_cntr[TCP_REQUEST_STATE_NEED_BUFFER] > 0 \&\&\
\t\t    tqpair->state_cntr[TCP_REQUEST_STATE_AWAITING_R2T_ACK] == 0 \&\&\
\t\t    tqpair->state_cntr[TCP_REQUEST_STATE_TRANSFERRING_HOST_TO_CONTROLLER] == 0) {\
\t\t\treturn NVME_TCP_PDU_IN_PROGRESS;\
\t\t}
' "$1" &&
        [ "$(grep -c 'nvmf_tcp_next_for_buffer(' "$1")" = 3 ] && [ "$(grep -c 'buffers_left' "$1")" = 7 ] &&
        [ "$(grep -c 'state_cntr\[TCP_REQUEST_STATE_NEED_BUFFER\] > 0 &&' "$1")" = 1 ] && ! grep -q 'req, buf_link, req_tmp' "$1"
}

# recipe_mend_flush FILE
# In each turn, up to 64 pieces of what waits for a host were gathered before the kernel was asked whether it takes any, and all in
# vain for hosts that take nothing. Now two are gathered for a socket that was full: the rest of one, and what comes behind it.
recipe_mend_flush() {
    sed -i '
/^struct spdk_posix_sock {$/,/^};$/s/^\tbool\t\t\tzcopy;$/&\
\tbool\t\t\twas_full;/
/^_sock_flush(struct spdk_sock \*sock)$/,/^}$/{
s/iovcnt >= IOV_BATCH_SIZE/iovcnt >= (psock->was_full ? 2 : IOV_BATCH_SIZE)/
s/^\t\tif (errno == EAGAIN || errno == EWOULDBLOCK) {$/&\
\t\t\tpsock->was_full = true;/
s/^\tpsock->sendmsg_idx++;$/&\
\tpsock->was_full = false;/
}
' "$1" &&
        [ "$(grep -c 'was_full' "$1")" = 5 ] && [ "$(grep -c 'psock->was_full ? 2 : IOV_BATCH_SIZE' "$1")" = 2 ]
}

# recipe_configure DIR
recipe_configure() {
    # shellcheck disable=SC2086 # The options are a list of words.
    cd "$1" && ./configure $RECIPE_CONFIGURE
}

# recipe_compile DIR JOBS
# HAVE_ARC4RANDOM: SPDK and the C library of today both define arc4random.
# -fcommon and -Wno-error: DPDK 20.05 is older than the compilers of today and their new warnings.
recipe_compile() {
    local drivers
    drivers=$(recipe_drivers) && cd "$1" &&
        make -j"$2" CC="gcc -DHAVE_ARC4RANDOM" DPDK_DRIVERS="$drivers" \
            DPDK_CFLAGS="-fPIC -fcommon -Wno-error" &&
        # The peer that oriel-perf is measured against.
        make -j"$2" CC="gcc -DHAVE_ARC4RANDOM" -C test/bdev/bdevperf
}

# recipe_trim DIR FINAL
# Keeps headers, static libraries and programs. The tree was built under another name, so the few text files that know
# their own place are told the final one.
recipe_trim() {
    local from=$1 to=$2 kept
    cd "$from" || return
    kept=$(mktemp -d "$from/kept.XXXXXX") &&
        mkdir -p "$kept"/{dpdk,isa-l/.libs,test/bdev/bdevperf} &&
        mv build include mk scripts CONFIG LICENSE .mended "$kept/" &&
        mv dpdk/build dpdk/license dpdk/VERSION "$kept/dpdk/" &&
        mv isa-l/.libs/libisal.a "$kept/isa-l/.libs/" &&
        mv isa-l/include isa-l/LICENSE "$kept/isa-l/" &&
        mv test/bdev/bdevperf/bdevperf test/bdev/bdevperf/bdevperf.py "$kept/test/bdev/bdevperf/" &&
        # SPDK v20.07 declares the functions that create a bdev of each kind in headers beside their sources.
        find lib module -name '*.h' -exec cp --parents -t "$kept" {} + &&
        find . -mindepth 1 -maxdepth 1 ! -path "./${kept##*/}" -exec rm -rf {} + &&
        find "$kept" -mindepth 1 -maxdepth 1 -exec mv -t . {} + &&
        rmdir "$kept" &&
        # Static linking only: with shared objects beside them, DPDK would load each driver a second time at start.
        find dpdk/build/lib \( -name '*.so' -o -name '*.so.*' \) -delete &&
        rm -rf dpdk/build/bin dpdk/build/share dpdk/build/lib/dpdk &&
        find build/bin build/examples test/bdev/bdevperf -type f -perm -u+x ! -name '*.py' -exec strip --strip-debug {} + &&
        { grep -rlIF "$from" . || true; } | xargs -r -d '\n' sed -i "s|$from|$to|g"
}

# recipe_check DIR: names on stdout whatever is missing from a finished tree.
recipe_check() {
    local file
    {
        printf 'build/lib/libspdk_%s.a\n' nvmf nvme bdev bdev_malloc bdev_null bdev_aio bdev_uring bdev_nvme bdev_error \
            bdev_delay blob blob_bdev event_bdev event_nvmf env_dpdk rdma sock_posix thread
        printf 'dpdk/build/lib/librte_%s.a\n' eal ethdev mbuf mempool mempool_ring bus_pci bus_vdev \
            pmd_af_packet pmd_memif pmd_ring pmd_tap pmd_virtio
        [ ! -e /usr/include/infiniband/mlx5dv.h ] || echo dpdk/build/lib/librte_pmd_mlx5.a
        printf '%s\n' isa-l/.libs/libisal.a include/spdk/version.h dpdk/build/include/rte_eal.h \
            test/bdev/bdevperf/bdevperf build/examples/perf build/examples/identify
    } | while read -r file; do
        [ -s "$1/$file" ] || echo "$file"
    done
}

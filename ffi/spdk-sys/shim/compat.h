/* SPDX-License-Identifier: Apache-2.0
 * What every shim file includes first: SPDK's base headers and the release test. */
#ifndef ORIEL_COMPAT_H
#define ORIEL_COMPAT_H

#include "spdk/stdinc.h"
#include "spdk/version.h"

/* True when compiling against this release or a newer one. */
#define SPDK_SINCE(major, minor) (SPDK_VERSION >= SPDK_VERSION_NUM(major, minor, 0))

#if !SPDK_SINCE(20, 7)
#error "SPDK is older than v20.07, the first release that Oriel supports: point SPDK_DIR at a newer one, or unset it and run scripts/bootstrap"
#endif

#endif

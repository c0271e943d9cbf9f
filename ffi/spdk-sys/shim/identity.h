/* SPDX-License-Identifier: Apache-2.0
 * What the target says of our devices. */
#ifndef ORIEL_IDENTITY_H
#define ORIEL_IDENTITY_H

struct spdk_bdev;

/* What a device of ours says of each NVMe I/O command; NULL for any other. */
const uint32_t *oriel_bdev_effects(const struct spdk_bdev *bdev);
/* Has every target of the process say it. */
void oriel_nvmf_answer_for_devices(void);

#endif

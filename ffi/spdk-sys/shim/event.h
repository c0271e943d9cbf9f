/* SPDX-License-Identifier: Apache-2.0
 * What happened to an open device, in our numbers. */
#ifndef ORIEL_EVENT_H
#define ORIEL_EVENT_H

static inline int
event_from_spdk(enum spdk_bdev_event_type type)
{
	switch (type) {
	case SPDK_BDEV_EVENT_REMOVE:
		return ORIEL_BDEV_REMOVED;
	case SPDK_BDEV_EVENT_RESIZE:
		return ORIEL_BDEV_RESIZED;
	default:
		return ORIEL_BDEV_OTHER;
	}
}

#endif

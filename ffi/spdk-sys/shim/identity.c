/* SPDX-License-Identifier: Apache-2.0
 * What a controller says of itself whose namespace is a device of ours. SPDK's target says the same of all controllers: that
 * they have a volatile cache and take commands that the device refuses, and nothing of the commands that only it takes. */
#include "compat.h"
#include "spdk/bdev.h"
#include "spdk/nvme_spec.h"
#include "spdk/nvmf.h"
#include "spdk/nvmf_cmd.h"
#include "spdk/nvmf_transport.h"
#include "spdk/util.h"
#include "oriel.h"
#include "identity.h"

/* Identify Controller and the Commands Supported and Effects log, by their bytes: SPDK's names for them change. */
enum {
	IDENTIFY_CONTROLLER = 0x01,
	LOG_EFFECTS = 0x05,
	AT_LPA = 261,
	AT_ONCS = 520,
	AT_VWC = 525,
	/* LPA: there is such a log. */
	LPA_EFFECTS = 1 << 1,
	ONCS_RESERVATIONS = 1 << 5,
	PAGE_BYTES = 4096,
};

struct effects_page {
	uint32_t admin[256];
	uint32_t io[256];
	uint8_t reserved[2048];
};
SPDK_STATIC_ASSERT(sizeof(struct effects_page) == PAGE_BYTES, "the log has 4096 bytes");

/* Optional commands, and the bits of ONCS that say that there are some. */
static const struct {
	uint8_t opcode;
	uint16_t oncs;
} g_optional[] = {
	{ 0x05, 1 << 0 }, { 0x04, 1 << 1 }, { 0x09, 1 << 2 }, { 0x08, 1 << 3 }, { 0x0c, 1 << 7 }, { 0x19, 1 << 8 },
};

/* Commands that the target itself answers: all admin commands, and those about reservations. */
static const uint8_t g_admin[] = { 0x02, 0x06, 0x08, 0x09, 0x0a, 0x0c, 0x18 };
static const uint8_t g_reservations[] = { 0x0d, 0x0e, 0x11, 0x15 };

/* The device of the controller's namespace; NULL if it is none of ours. */
static struct spdk_bdev *
device_of(struct spdk_nvmf_request *req)
{
	struct spdk_nvmf_subsystem *subsystem = spdk_nvmf_request_get_subsystem(req);
	struct spdk_nvmf_ns *ns;
	struct spdk_bdev *bdev;

	if (subsystem == NULL || spdk_nvmf_subsystem_get_type(subsystem) != SPDK_NVMF_SUBTYPE_NVME) {
		return NULL;
	}
	ns = spdk_nvmf_subsystem_get_first_ns(subsystem);
	bdev = ns == NULL ? NULL : spdk_nvmf_ns_get_bdev(ns);
	return bdev != NULL && oriel_bdev_effects(bdev) != NULL ? bdev : NULL;
}

/* The controller as SPDK describes it, with what is true of the device. */
static void
describe(struct spdk_nvmf_request *req, struct spdk_bdev *bdev, uint8_t *bytes)
{
	const uint32_t *effects = oriel_bdev_effects(bdev);
	uint16_t oncs;

	spdk_nvmf_ctrlr_identify_ctrlr(spdk_nvmf_request_get_ctrlr(req), (struct spdk_nvme_ctrlr_data *)bytes);
	memcpy(&oncs, bytes + AT_ONCS, sizeof(oncs));
	for (size_t i = 0; i < SPDK_COUNTOF(g_optional); i++) {
		if (effects[g_optional[i].opcode] == 0) {
			oncs &= ~g_optional[i].oncs;
		}
	}
	memcpy(bytes + AT_ONCS, &oncs, sizeof(oncs));
	if (!spdk_bdev_has_write_cache(bdev)) {
		bytes[AT_VWC] = 0;
	}
	bytes[AT_LPA] |= LPA_EFFECTS;
}

/* Answers with some bytes; what there is room for behind them is zeros. False if they do not fit. */
static bool
answer(struct spdk_nvmf_request *req, const void *bytes, size_t count)
{
	size_t room = 0, done = 0, part;
	uint32_t i;

	for (i = 0; i < req->iovcnt; i++) {
		room += req->iov[i].iov_len;
	}
	if (room < count) {
		return false;
	}
	for (i = 0; i < req->iovcnt; i++) {
		part = spdk_min(req->iov[i].iov_len, count - done);
		memcpy(req->iov[i].iov_base, (const uint8_t *)bytes + done, part);
		memset((uint8_t *)req->iov[i].iov_base + part, 0, req->iov[i].iov_len - part);
		done += part;
	}
	return true;
}

/* A handler's result: -1 leaves the command to SPDK. */
static int
identify(struct spdk_nvmf_request *req)
{
	struct spdk_nvme_cmd *cmd = spdk_nvmf_request_get_cmd(req);
	struct spdk_bdev *bdev = device_of(req);
	union {
		struct spdk_nvme_ctrlr_data data;
		uint8_t bytes[PAGE_BYTES];
	} page;

	if (bdev == NULL || (cmd->cdw10 & 0xff) != IDENTIFY_CONTROLLER) {
		return -1;
	}
	memset(&page, 0, sizeof(page));
	describe(req, bdev, page.bytes);
	return answer(req, page.bytes, sizeof(page.bytes)) ? SPDK_NVMF_REQUEST_EXEC_STATUS_COMPLETE : -1;
}

static int
get_log_page(struct spdk_nvmf_request *req)
{
	struct spdk_nvme_cmd *cmd = spdk_nvmf_request_get_cmd(req);
	struct spdk_bdev *bdev = device_of(req);
	uint64_t count = ((uint64_t)(cmd->cdw11 & 0xffff) << 16 | cmd->cdw10 >> 16) + 1;
	uint64_t offset = (uint64_t)cmd->cdw13 << 32 | cmd->cdw12;
	uint8_t controller[PAGE_BYTES] __attribute__((aligned(8)));
	struct effects_page page;
	uint16_t oncs;

	if (bdev == NULL || (cmd->cdw10 & 0xff) != LOG_EFFECTS) {
		return -1;
	}
	if (offset % 4 != 0 || offset >= PAGE_BYTES) {
		spdk_nvmf_request_get_response(req)->status.sct = SPDK_NVME_SCT_GENERIC;
		spdk_nvmf_request_get_response(req)->status.sc = SPDK_NVME_SC_INVALID_FIELD;
		return SPDK_NVMF_REQUEST_EXEC_STATUS_COMPLETE;
	}
	count = spdk_min(count, (PAGE_BYTES - offset) / 4);
	memset(&page, 0, sizeof(page));
	memset(controller, 0, sizeof(controller));
	describe(req, bdev, controller);
	memcpy(&oncs, controller + AT_ONCS, sizeof(oncs));
	for (size_t i = 0; i < SPDK_COUNTOF(g_admin); i++) {
		page.admin[g_admin[i]] = ORIEL_EFFECT_SUPPORTED;
	}
	memcpy(page.io, oriel_bdev_effects(bdev), sizeof(page.io));
	for (size_t i = 0; i < SPDK_COUNTOF(g_reservations) && (oncs & ONCS_RESERVATIONS) != 0; i++) {
		page.io[g_reservations[i]] = ORIEL_EFFECT_SUPPORTED;
	}
	return answer(req, (uint8_t *)&page + offset, count * 4) ? SPDK_NVMF_REQUEST_EXEC_STATUS_COMPLETE : -1;
}

void
oriel_nvmf_answer_for_devices(void)
{
	spdk_nvmf_set_custom_admin_cmd_hdlr(SPDK_NVME_OPC_IDENTIFY, identify);
	spdk_nvmf_set_custom_admin_cmd_hdlr(SPDK_NVME_OPC_GET_LOG_PAGE, get_log_page);
}

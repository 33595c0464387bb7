/* pth.h - a PyTorch file (torch.save since 1.6): a zip of stored members, one of them a pickle that
 * says which bytes are which tensor. Mapped, validated whole before anything is handed out.
 *
 * The pickle is read, never run: its opcodes build typed values, the few globals that a dict of
 * tensors needs are known by name, and anything else is refused with its name. Nothing else is in
 * the code, so nothing else can happen.
 *
 * Stricter than torch where readers disagree: members must be stored, named alike in both zip
 * headers, unique and apart from one another; the checksum of each small member is verified. */
#ifndef PUNA_FORMAT_PTH_H
#define PUNA_FORMAT_PTH_H

#include "format/tensor.h"

struct pth;

int pth_open(struct pth **out, const char *path, struct err *e) MUST_USE;
/* The same from memory, which is borrowed; `what` names it in messages. */
int pth_open_mem(struct pth **out, const void *p, size_t n, const char *what,
                 struct err *e) MUST_USE;
void pth_close(struct pth *p);

const char *pth_path(const struct pth *p);
/* Tensors sorted by name. Those that lie row after row are views into the mapping; others, of at
 * most 16 MiB in all, are gathered. */
size_t pth_tensors(const struct pth *p);
const struct tensor_view *pth_tensor(const struct pth *p, size_t i);
const struct tensor_view *pth_find(const struct pth *p, const char *name); /* NULL = absent */

#endif

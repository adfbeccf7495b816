// Messages between two ranks, alone or many at once.
#pragma once

#include <vector>

#include "group.h"

namespace npu_simulator {

// A message under way from or to `peer`.
struct Transfer {
  Group* group;
  Call call;  // kSend or kReceive
  size_t peer;
  char* data;
  size_t moved = 0;  // bytes
  bool started = false;

  size_t bytes() const { return call.count * BytesOf(C_DataType(call.dtype)); }
  bool done() const { return started && moved == bytes(); }
};

// Moves all of them, in any order between pairs and in the given order within one. Throws GroupError.
void Run(std::vector<Transfer> transfers);

// Runs now, or at the outermost group end if the thread is between group start and end: ranks that send to each other
// before they receive would otherwise wait for ever.
void RunOrQueue(std::vector<Transfer> transfers);
void StartGrouping();
void EndGrouping();

}  // namespace npu_simulator

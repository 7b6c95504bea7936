import { afterEach, beforeEach, expect, it, vi } from 'vitest'
import { MemoryDatabase } from '../../src/adapters/memory.ts'
import { DatabaseError } from '../../src/base/errors.ts'
import { memoryStore } from '../../src/engines/memory/store.ts'
import { withRetries } from '../../src/process/store/retries.ts'
import { TAKEOVER_SLACK_MS } from '../faults/checkers.ts'

const BUSY_TRIES = 30

beforeEach(() => {
  vi.useFakeTimers()
})

afterEach(() => {
  vi.useRealTimers()
})

// A fault run on SQLite (seed 1306079996) met the file busy at every try, and its pauses had grown by then: a dead holder's
// lease was taken over 740 ms late.
it('what finds a file busy many times over is still done while a takeover is in time', async () => {
  let tries = 0
  const store = memoryStore(new MemoryDatabase())
  const busy = withRetries(
    {
      ...store,
      async promote(names, process) {
        if (++tries <= BUSY_TRIES) throw new DatabaseError('conflict', 'database is locked', { cause: undefined })
        return store.promote(names, process)
      },
    },
    60_000,
  )
  const answered = vi.fn()
  void busy.promote(['a lock'], '1').then(answered)
  await vi.advanceTimersByTimeAsync(TAKEOVER_SLACK_MS)
  expect(answered).toHaveBeenCalledWith([{ outcome: 'idle', grants: [] }])
  expect(tries).toBe(BUSY_TRIES + 1)
})

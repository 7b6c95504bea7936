import { afterEach, beforeEach, describe, expect, it, type MockInstance, vi } from 'vitest'
import { fromMemory } from '../../src/adapters/memory.ts'
import { createLocks, type LockEvent } from '../../src/index.ts'

describe('a listener that throws', () => {
  let warn: MockInstance<typeof process.emitWarning>

  beforeEach(() => {
    warn = vi.spyOn(process, 'emitWarning').mockImplementation(() => undefined)
  })

  afterEach(() => warn.mockRestore())

  it('breaks neither the lease nor other listeners, and what it threw is not hidden', async () => {
    const locks = createLocks(fromMemory())
    const failure = new Error('the listener failed')
    const events: LockEvent['type'][] = []
    locks.on(() => {
      throw failure
    })
    locks.on(({ type }) => events.push(type))
    const lease = await locks.acquire('job')
    expect(lease.isHeld()).toBe(true)
    expect(await lease.release()).toBe(true)
    expect(events).toEqual(['acquired', 'released'])
    expect(warn).toHaveBeenCalledTimes(2)
    expect(warn).toHaveBeenCalledWith(failure, expect.objectContaining({ type: 'RowlockListenerWarning' }))
    await locks.close()
  })

  it('may be an async function that rejects', async () => {
    const locks = createLocks(fromMemory())
    const failure = new Error('the listener failed')
    locks.on(async () => {
      throw failure
    })
    await (await locks.acquire('job')).release()
    expect(warn).toHaveBeenCalledWith(failure, expect.objectContaining({ type: 'RowlockListenerWarning' }))
    expect(() => locks.on(5 as never)).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT' }))
    await locks.close()
  })

  it('may throw what is no Error', async () => {
    const locks = createLocks(fromMemory())
    locks.on(() => {
      throw 'text'
    })
    await (await locks.acquire('job')).release()
    expect(warn.mock.calls[0]![0]).toEqual(new Error('text'))
    await locks.close()
  })
})

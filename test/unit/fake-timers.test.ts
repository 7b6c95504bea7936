import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { fromMemory, MemoryDatabase } from '../../src/adapters/memory.ts'
import { createLocks, type LockEvent } from '../../src/index.ts'

/** The in-memory engine is for unit tests of applications, which often have no time to wait. */
describe('locks in memory, with fake timers', () => {
  const database = new MemoryDatabase()
  const open = () => createLocks(fromMemory(database), { ttl: '30s', wait: '10s' })
  let locks = open()
  let others = open()

  beforeEach(() => {
    vi.useFakeTimers()
    locks = open()
    others = open()
  })

  afterEach(async () => {
    await locks.close()
    await others.close()
    expect(vi.getTimerCount()).toBe(0)
    vi.useRealTimers()
    database.rows.clear()
  })

  it('keeps a lease for hours, renewing it', async () => {
    let renewals = 0
    locks.on((event) => {
      if (event.type === 'renewed') renewals++
    })
    const lease = await locks.acquire('job')
    await vi.advanceTimersByTimeAsync(3 * 3_600_000)
    expect(lease.isHeld()).toBe(true)
    expect(await others.tryAcquire('job')).toBeNull()
    // Each third of the ttl.
    expect(renewals).toBe((3 * 3600) / 10)
    expect(await lease.release()).toBe(true)
  })

  it('aborts a lease that is not renewed before anybody else can have it', async () => {
    const lease = await locks.acquire('job', { renew: false })
    const seen: unknown[] = []
    lease.signal.addEventListener('abort', async () => seen.push(lease.isHeld(), await others.tryAcquire('job')))
    await vi.advanceTimersByTimeAsync(29_000)
    expect(lease.isHeld()).toBe(true)
    expect(lease.remainingMs()).toBeGreaterThan(0)
    await vi.advanceTimersByTimeAsync(990)
    expect(seen).toEqual([false, null])
    await vi.advanceTimersByTimeAsync(10)
    expect((await others.tryAcquire('job'))?.isHeld()).toBe(true)
  })

  it('knows that a lease has run out although no timer has fired yet', async () => {
    const lease = await locks.acquire('job', { renew: false })
    const { signal } = lease
    // As when the event loop was kept busy.
    const stalled = vi.spyOn(performance, 'now').mockReturnValue(performance.now() + 60_000)
    expect(lease.isHeld()).toBe(false)
    expect(lease.remainingMs()).toBe(0)
    expect(signal.aborted).toBe(true)
    stalled.mockRestore()
    expect(lease.isHeld()).toBe(false)
  })

  it('waits for a lease to run out', async () => {
    await locks.acquire('job', { ttl: '5s', renew: false })
    const waiting = others.acquire('job')
    await vi.advanceTimersByTimeAsync(4900)
    expect((await others.inspect('job'))?.waiters).toBe(1)
    await vi.advanceTimersByTimeAsync(200)
    expect((await waiting).isHeld()).toBe(true)
  })

  it('gives up after wait', async () => {
    await locks.acquire('job')
    const waiting = expect(others.acquire('job')).rejects.toMatchObject({ code: 'LOCK_TIMEOUT' })
    await vi.advanceTimersByTimeAsync(10_000)
    await waiting
    expect((await locks.inspect('job'))?.waiters).toBe(0)
  })

  it('ends a lease at maxHold', async () => {
    const lease = await locks.acquire('job', { maxHold: '2m' })
    await vi.advanceTimersByTimeAsync(118_000)
    expect(lease.isHeld()).toBe(true)
    await vi.advanceTimersByTimeAsync(1000)
    expect(lease.isHeld()).toBe(false)
    expect(lease.signal.reason.message).toContain('maxHold')
    expect(await others.tryAcquire('job')).toBeNull()
    await vi.advanceTimersByTimeAsync(1000)
    expect(await others.tryAcquire('job')).not.toBeNull()
  })

  it('leaves no timer when nothing is held and nobody waits', async () => {
    const lease = await locks.acquire('job', { maxHold: '1h' })
    const controller = new AbortController()
    const aborted = expect(others.acquire('job', { signal: controller.signal })).rejects.toBe('enough')
    await vi.advanceTimersByTimeAsync(200)
    expect(vi.getTimerCount()).toBeGreaterThan(0)
    controller.abort('enough')
    await aborted
    await lease.release()
    await expect(locks.run('job', {}, () => Promise.reject(new Error('failed')))).rejects.toThrow('failed')
    expect(vi.getTimerCount()).toBe(0)
  })

  it('leaves no timer after close, whatever was under way', async () => {
    const foreign = await others.acquire('busy')
    await Promise.all([locks.acquire('a'), locks.acquire('b', { renew: false }), locks.acquire('c', { ttl: '1s' })])
    const waiting = expect(locks.acquire('busy')).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
    await vi.advanceTimersByTimeAsync(2000)
    await locks.close()
    await waiting
    await foreign.release()
    expect(vi.getTimerCount()).toBe(0)
    expect(await others.list()).toEqual([])
  })

  it('tells of each thing once', async () => {
    const events: LockEvent['type'][] = []
    locks.on(({ type }) => events.push(type))
    const lease = await locks.acquire('job', { renew: false })
    await vi.advanceTimersByTimeAsync(60_000)
    expect(await lease.release()).toBe(false)
    expect(await lease.release()).toBe(false)
    expect(events).toEqual(['acquired', 'lost'])
  })
})

/** What Jest, Sinon and Vitest replace where they are told nothing else; Vitest leaves these two alone by itself. */
const ALL_BUT_TICKS = [
  'setTimeout',
  'clearTimeout',
  'setInterval',
  'clearInterval',
  'setImmediate',
  'clearImmediate',
  'Date',
  'performance',
  'queueMicrotask',
] as const

describe('locks in memory, with fake timers that also hold back what is no matter of time', () => {
  const database = new MemoryDatabase()
  let heldBack: (() => void)[]

  beforeEach(() => {
    heldBack = []
    vi.useFakeTimers({ toFake: [...ALL_BUT_TICKS] })
    // Nothing here may depend on these being called before the test is over.
    const holdBack: typeof process.nextTick = (call, ...values: unknown[]) => {
      heldBack.push(() => call(...values))
    }
    vi.spyOn(process, 'nextTick').mockImplementation(holdBack)
  })

  afterEach(() => {
    vi.runAllTicks()
    vi.restoreAllMocks()
    vi.useRealTimers()
    // Among them is what Vitest says to this process, which would wait for ever for what is lost.
    for (const call of heldBack) call()
  })

  it('are taken, handed over and released while no time passes', async () => {
    const locks = createLocks(fromMemory(database))
    const others = createLocks(fromMemory(database))
    const lease = await locks.acquire('job')
    expect(await others.tryAcquire('job')).toBeNull()
    const waiting = others.acquire('job')
    expect((await locks.inspect('job'))?.token).toBe(lease.token)
    await lease.release()
    const next = await waiting
    expect(next.token).toBeGreaterThan(lease.token)
    expect(await others.run('another', {}, async () => 'done')).toBe('done')
    await next.release()
    await locks.close()
    await others.close()
  })

  it('run out when the time is moved', async () => {
    const locks = createLocks(fromMemory(database), { ttl: '30s', wait: '1m' })
    const lease = await locks.acquire('job', { renew: false })
    const waiting = locks.acquire('job')
    await vi.advanceTimersByTimeAsync(29_000)
    expect(lease.isHeld()).toBe(true)
    await vi.advanceTimersByTimeAsync(2000)
    expect(lease.isHeld()).toBe(false)
    expect((await waiting).isHeld()).toBe(true)
    await locks.close()
  })
})

import { expect, it } from 'vitest'
import { createLocks, type Leader, type Locks, type Term } from '../../src/index.ts'
import { freshName } from '../engines.ts'
import { DEFAULTS, eventually, recordEvents, type Subject, settled, sleep, untilWaiting } from './harness.ts'

export function electionSuite(subject: Subject): void {
  /** Leads until its term's signal aborts, and writes down its terms. */
  function candidate(locks: Locks<unknown>, name: string, ttl?: number) {
    const stop = new AbortController()
    const terms: Term<unknown>[] = []
    const reasons: unknown[] = []
    const ended = locks
      .election(name, { ...(ttl !== undefined && { ttl }) })
      .lead({ signal: stop.signal }, async (term) => {
        terms.push(term)
        await untilAborted(term.signal)
        reasons.push(term.signal.reason)
      })
    return { stop: () => stop.abort(new Error('enough')), terms, reasons, ended }
  }
  const untilAborted = (signal: AbortSignal) =>
    new Promise<void>((resolve) => {
      if (signal.aborted) resolve()
      else signal.addEventListener('abort', () => resolve())
    })

  it('leaves something to the next leader', async () => {
    const { locks, others } = subject
    const name = freshName()
    const seen: unknown[] = []
    for (const each of [locks, others]) {
      const stop = new AbortController()
      await each.election(name).lead({ signal: stop.signal }, async (term) => {
        seen.push(term.payload)
        await Promise.all([1, 2, 3].map((cursor) => term.checkpoint({ cursor })))
        stop.abort()
      })
    }
    expect(seen).toEqual([null, { cursor: 3 }])
  })

  it('many elections and observers of one instance are no leak', async () => {
    const { locks } = subject
    const warnings: Error[] = []
    const warn = (warning: Error) => warnings.push(warning)
    process.on('warning', warn)
    const stop = new AbortController()
    const leading = Array.from({ length: 12 }, () =>
      locks.election(freshName()).lead({ signal: stop.signal }, ({ signal }) => untilAborted(signal)),
    )
    const observers = Array.from({ length: 12 }, () => locks.election(freshName()).observe())
    await Promise.all(observers.map((observer) => observer.next()))
    await Promise.all(observers.map((observer) => observer.return?.()))
    stop.abort()
    await Promise.all(leading)
    process.off('warning', warn)
    expect(warnings.filter(({ name }) => name === 'MaxListenersExceededWarning')).toEqual([])
  })

  it('has one leader, and the next one when that stops', async () => {
    const { locks, others } = subject
    const name = freshName()
    const first = candidate(locks, name)
    await eventually(() => expect(first.terms).toHaveLength(1))
    const second = candidate(others, name)
    await untilWaiting(locks, name)
    expect(second.terms).toHaveLength(0)
    first.stop()
    await first.ended
    expect(first.reasons).toMatchObject([{ message: 'enough' }])
    await eventually(() => expect(second.terms).toHaveLength(1))
    expect(second.terms[0]!.token).toBeGreaterThan(first.terms[0]!.token)
    second.stop()
    await second.ended
    expect(await locks.inspect(name)).toBeNull()
  })

  it('a leader that resigns is a candidate again, behind those who wait', async () => {
    const { locks, others } = subject
    const name = freshName()
    const first = candidate(locks, name)
    await eventually(() => expect(first.terms).toHaveLength(1))
    const second = candidate(others, name)
    await untilWaiting(locks, name)
    await first.terms[0]!.resign()
    expect(first.terms[0]!.signal.reason).toMatchObject({ code: 'RESIGNED', requested: false, lock: name })
    await eventually(() => expect(second.terms).toHaveLength(1))
    await untilWaiting(others, name)
    await second.terms[0]!.resign()
    await eventually(() => expect(first.terms).toHaveLength(2))
    first.stop()
    second.stop()
    await Promise.all([first.ended, second.ended])
  })

  it('a leader is asked to resign, and told so from a loss', async () => {
    const { locks, others } = subject
    const name = freshName()
    expect(await others.election(name).requestResign()).toBe(false)
    const first = candidate(locks, name)
    await eventually(() => expect(first.terms).toHaveLength(1))
    const second = candidate(others, name)
    await untilWaiting(locks, name)
    expect(await others.election(name).requestResign()).toBe(true)
    await eventually(() => expect(second.terms).toHaveLength(1))
    expect(first.reasons).toMatchObject([{ name: 'ResignedError', code: 'RESIGNED', requested: true }])
    second.stop()
    // The one before leads again, and is not asked any more.
    await eventually(() => expect(first.terms).toHaveLength(2))
    await sleep(1200)
    expect(first.terms[1]!.signal.aborted).toBe(false)
    first.stop()
    await Promise.all([first.ended, second.ended])
  })

  it('a leader that loses its lease hears of it, and cannot write', async () => {
    const { locks, others, connected } = subject
    const name = freshName()
    const first = candidate(locks, name, 1500)
    await eventually(() => expect(first.terms).toHaveLength(1))
    const [term] = first.terms
    await connected.transaction(async (tx) => term!.guard(tx))
    expect(await others.forceRelease(name)).toBe(true)
    const successor = await others.acquire(name)
    const late = await settled(connected.transaction(async (tx) => term!.guard(tx)))
    expect(late).toMatchObject({ status: 'rejected', reason: { code: 'LOCK_LOST' } })
    await eventually(() => expect(first.reasons).toMatchObject([{ code: 'LOCK_LOST' }]))
    await successor.release()
    await eventually(() => expect(first.terms).toHaveLength(2))
    first.stop()
    await first.ended
  })

  it('a body that fails is an event, and does not spin', async () => {
    const { locks } = subject
    const name = freshName()
    const events = recordEvents(locks)
    const stop = new AbortController()
    const failure = new Error('not today')
    let terms = 0
    const ended = locks.election(name).lead({ signal: stop.signal }, () => {
      terms++
      throw failure
    })
    await eventually(() => expect(terms).toBeGreaterThan(2))
    const before = terms
    await sleep(300)
    // Each pause is longer than the one before.
    expect(terms - before).toBeLessThan(10)
    stop.abort()
    await ended
    expect(events.filter((event) => event.type === 'error').map(({ cause }) => cause)).toContain(failure)
    expect(await locks.inspect(name)).toBeNull()
  })

  it('a failure of a body that was told to end is an event; that it was told so is none', async () => {
    const { locks } = subject
    const name = freshName()
    const events = recordEvents(locks)
    const failure = new TypeError('flush failed')
    for (const reject of [(signal: AbortSignal) => signal.reason, () => new Error('ended'), () => failure]) {
      const stop = new AbortController()
      const ended = locks.election(name).lead({ signal: stop.signal }, async ({ signal }) => {
        stop.abort(new Error('enough'))
        const error = reject(signal)
        throw error.message === 'ended' ? new Error('ended', { cause: signal.reason }) : error
      })
      await ended
    }
    expect(events.filter((event) => event.type === 'error').map(({ cause }) => cause)).toEqual([failure])
  })

  it('an observer hears that nobody leads, though the row of the lock is gone', async () => {
    const { locks, others } = subject
    const name = freshName()
    const leader = candidate(locks, name)
    const observer = others.election(name).observe()
    await eventually(() => expect(leader.terms).toHaveLength(1))
    await eventually(async () => expect((await observer.next()).value).not.toBeNull())
    leader.stop()
    await leader.ended
    await others.purge({ idleFor: 0 })
    expect((await observer.next()).value).toBeNull()
    await observer.return?.()
  })

  it('is observed: who leads, and each change, in order', async () => {
    const { locks, others } = subject
    const name = freshName()
    const seen: (Leader | null)[] = []
    const stop = new AbortController()
    const observing = (async () => {
      for await (const leader of others.election(name).observe({ signal: stop.signal })) seen.push(leader)
    })()
    await eventually(() => expect(seen).toEqual([null]))
    const first = candidate(locks, name)
    await eventually(() => expect(seen).toHaveLength(2))
    const { token } = first.terms[0]!
    expect(seen[1]).toMatchObject({ token, since: expect.any(Date), holder: expect.any(String) })
    await first.terms[0]!.resign()
    await eventually(() => expect(first.terms).toHaveLength(2))
    first.stop()
    await first.ended
    await eventually(() => expect(seen.at(-1)).toBeNull())
    const tokens = seen.flatMap((leader) => leader?.token ?? [])
    expect([...tokens].sort((a, b) => (a < b ? -1 : 1))).toEqual(tokens)
    stop.abort()
    await observing
    const again = others.election(name).observe()
    expect(await again.next()).toEqual({ done: false, value: null })
    const pending = again.next()
    expect(await again.return?.()).toEqual({ done: true, value: undefined })
    expect(await pending).toEqual({ done: true, value: undefined })
  })

  it('ends with the instance', async () => {
    const { others, connected } = subject
    const name = freshName()
    const locks = createLocks(connected.adapter, DEFAULTS)
    const leader = candidate(locks, name)
    await eventually(() => expect(leader.terms).toHaveLength(1))
    const idle = candidate(locks, name)
    await untilWaiting(others, name)
    const observing = settled(
      (async () => {
        for await (const _ of locks.election(name).observe());
      })(),
    )
    await locks.close()
    await Promise.all([leader.ended, idle.ended])
    expect(leader.terms[0]!.signal.aborted).toBe(true)
    expect(await observing).toMatchObject({ status: 'fulfilled' })
    expect(await others.inspect(name)).toBeNull()
    expect(() => locks.election(name)).toThrow(/closed/)
  })

  it('is refused if it could not be held', async () => {
    const { locks } = subject
    const wrong = [
      () => locks.election(''),
      () => locks.election('x', { ttl: 1 }),
      () => locks.election('x', { mode: 'shared' } as never),
      () => locks.election('x', null as never),
    ]
    for (const call of wrong) expect(call).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT' }))
    const lead = (...args: unknown[]) => locks.election('x').lead(...(args as [object, () => void]))
    for (const args of [[{}], [undefined, () => 1], [{ signal: 'x' }, () => 1]]) {
      await expect(lead(...args)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
    }
    const observe = () => locks.election('x').observe({ signal: 'x' as never })
    expect(observe).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT' }))
  })

  it('waitUntilFree waits until nobody holds a lock, and holds nothing', async () => {
    const { locks, others } = subject
    const [name, permits] = [freshName(), freshName()]
    await locks.waitUntilFree(name)
    const closed = createLocks(subject.connected.adapter, DEFAULTS)
    const inTheWay = await others.acquire(name)
    const hanging = settled(closed.waitUntilFree(name, { wait: Number.POSITIVE_INFINITY }))
    await closed.close()
    expect(await hanging).toMatchObject({ reason: { code: 'INVALID_ARGUMENT' } })
    await inTheWay.release()
    const lease = await others.acquire(name)
    await expect(locks.waitUntilFree(name, { wait: 300 })).rejects.toMatchObject({ code: 'LOCK_TIMEOUT', lock: name })
    const stop = new AbortController()
    const aborted = settled(locks.waitUntilFree(name, { signal: stop.signal }))
    stop.abort(new Error('enough'))
    expect(await aborted).toMatchObject({ reason: { message: 'enough' } })
    let isFree = false
    const waiting = locks.waitUntilFree(name).then(() => {
      isFree = true
    })
    await sleep(500)
    expect(isFree).toBe(false)
    await lease.release()
    await waiting
    await (await others.acquire(name, { wait: 0 })).release()

    const semaphore = others.semaphore(permits, { permits: 3 })
    const held = [await semaphore.acquire(), await semaphore.acquire({ weight: 2 })]
    await held[0]!.release()
    await expect(locks.waitUntilFree(permits, { wait: 300 })).rejects.toMatchObject({ code: 'LOCK_TIMEOUT' })
    const free = locks.waitUntilFree(permits)
    await held[1]!.release()
    await free
  })
}

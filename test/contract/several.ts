import { expect, it } from 'vitest'
import { type Leases, LockLostError, type Locks, LockTimeoutError } from '../../src/index.ts'
import { freshName } from '../engines.ts'
import { DEFAULTS, eventually, recordEvents, type Subject, settled, sleep, untilWaiting } from './harness.ts'

/** In byte order, as `locale` or UTF-16 would not have them. */
const ENDS = ['A', 'B', 'a', 'é', '\uffee', '\u{1f512}']

export function severalSuite(subject: Subject): void {
  const { engine } = subject
  /** Whether others can change anything while a transaction that has written is open. */
  const isConcurrent = engine.shared && engine.engine !== 'sqlite'

  const freshNames = (count = 3) => {
    const name = freshName()
    return Array.from({ length: count }, (_, index) => `${name}:${String(index).padStart(4, '0')}`)
  }
  const held = async (names: readonly string[]) => {
    const states = await Promise.all(names.map((name) => subject.others.inspect(name)))
    return states.map((state) => state !== null)
  }
  const untilNoneHeld = (names: readonly string[]) =>
    eventually(async () => expect(await held(names)).toEqual(names.map(() => false)))
  const namesOf = (leases: Leases<unknown>) => leases.leases.map(({ name }) => name)

  it('takes all, each once, in byte order, and gives all back', async () => {
    const { locks, others } = subject
    const name = freshName()
    const names = ENDS.map((end) => name + end)
    const leases = await locks.acquireAll([...names].reverse().concat(names))
    expect(namesOf(leases)).toEqual(names)
    expect(new Set(leases.leases.map(({ name, owner }) => name + owner)).size).toBe(names.length)
    expect(leases.isHeld()).toBe(true)
    expect(leases.remainingMs()).toBeGreaterThan(30_000)
    for (const each of names) expect(await others.tryAcquire(each)).toBeNull()
    expect(await others.tryAcquireAll(names)).toBeNull()
    expect(await leases.release()).toBe(true)
    expect(await leases.release()).toBe(true)
    expect(leases.isHeld()).toBe(false)
    expect(leases.remainingMs()).toBe(0)
    expect(leases.signal.aborted).toBe(false)
    const next = await others.tryAcquireAll(names)
    for (const [index, lease] of next!.leases.entries()) {
      expect(lease.token).toBeGreaterThan(leases.leases[index]!.token)
    }
    await next!.release()
  })

  it('takes none where one is held', async () => {
    const { locks, others } = subject
    const names = freshNames(5)
    const events = recordEvents(locks)
    for (const name of names) {
      const inTheWay = await others.acquire(name)
      expect(await locks.tryAcquireAll(names)).toBeNull()
      await expect(locks.acquireAll(names, { wait: 0 })).rejects.toMatchObject({ code: 'LOCK_TIMEOUT', lock: name })
      await eventually(async () => expect((await held(names)).filter((each) => each)).toHaveLength(1))
      expect(await inTheWay.release()).toBe(true)
    }
    expect(events.map(({ type }) => type).filter((type) => type !== 'timeout')).toEqual([])
  })

  it('refuses what is no list of 1 to 1,000 names, and changes nothing', async () => {
    const { locks } = subject
    const name = freshName()
    const many = Array.from({ length: 1001 }, (_, index) => `${name}${index}`)
    for (const names of [
      [],
      many,
      name,
      null,
      undefined,
      { 0: name, length: 1 },
      [name, ''],
      [name, 'x'.repeat(256)],
      [name, 42],
      [name, '\ud800'],
    ]) {
      for (const verb of ['acquireAll', 'tryAcquireAll'] as const) {
        const refused = expect(locks[verb](names as string[])).rejects
        await refused.toMatchObject({ code: 'INVALID_ARGUMENT' })
      }
    }
    await expect(locks.acquireAll([name], { ttl: 0 })).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
    expect(await locks.inspect(name)).toBeNull()
    expect(await locks.list({ prefix: name })).toEqual([])
  })

  it('takes a thousand', async () => {
    const { locks, others } = subject
    const names = freshNames(1000)
    for (const time of ['new', 'known']) {
      const leases = await locks.acquireAll(names)
      expect(namesOf(leases), time).toEqual(names)
      expect(await others.list({ prefix: names[0]!.slice(0, -4) })).toHaveLength(1000)
      await leases.extend('1m')
      expect(await leases.release()).toBe(true)
      expect(await others.list({ prefix: names[0]!.slice(0, -4) })).toEqual([])
    }
  })

  it('holds what comes before the one it waits for, and nothing that comes after', async () => {
    const { locks, others } = subject
    const [first, second, third] = freshNames() as [string, string, string]
    const inTheWay = await others.acquire(second)
    const waiting = locks.acquireAll([third, second, first])
    await untilWaiting(others, second)
    await eventually(async () => expect(await held([first, second, third])).toEqual([true, true, false]))
    const last = await others.acquire(third)
    await inTheWay.release()
    await untilWaiting(others, third)
    expect(await others.tryAcquire(second)).toBeNull()
    await last.release()
    const leases = await waiting
    expect(namesOf(leases)).toEqual([first, second, third])
    expect(await leases.release()).toBe(true)
    await untilNoneHeld([first, second, third])
  })

  it('renews what it holds while it waits, and what it answers lasts from then on', async () => {
    const { locks, others } = subject
    const names = freshNames()
    const inTheWay = await others.acquire(names[1]!)
    // Longer than a busy machine lets this process stand still.
    const waiting = locks.acquireAll(names, { ttl: '6s', maxHold: '6s', renew: false })
    await untilWaiting(others, names[1]!)
    const token = (await others.inspect(names[0]!))?.token
    let least = Number.POSITIVE_INFINITY
    await eventually(async () => {
      const { expiresInMs } = (await others.inspect(names[0]!))!
      least = Math.min(least, expiresInMs)
      expect(expiresInMs).toBeGreaterThan(least + 500)
    })
    await inTheWay.release()
    const leases = await waiting
    expect(leases.isHeld()).toBe(true)
    expect(leases.leases[0]!.token).toBe(token)
    expect(leases.remainingMs()).toBeLessThanOrEqual(6000)
    await eventually(() => expect(leases.signal.aborted).toBe(true))
    await untilNoneHeld(names)
    expect(await leases.release()).toBe(false)
  })

  it('gives back what it holds when its time is up', async () => {
    const { locks, others } = subject
    const names = freshNames()
    const events = recordEvents(locks)
    const inTheWay = await others.acquire(names[2]!)
    const error = await locks.acquireAll(names, { wait: '300ms' }).catch((error: unknown) => error)
    expect(error).toBeInstanceOf(LockTimeoutError)
    expect(error).toMatchObject({ lock: names[2] })
    await untilNoneHeld(names.slice(0, 2))
    expect((await others.inspect(names[2]!))?.waiters).toBe(0)
    const own = events.filter((event) => 'name' in event && names.includes(event.name))
    expect(own).toMatchObject([{ type: 'timeout', name: names[2] }])
    await inTheWay.release()
  })

  it('gives back what it holds when it is aborted, whenever that is', async () => {
    const { locks, others } = subject
    await expect(locks.acquireAll(freshNames(), { signal: AbortSignal.abort('no') })).rejects.toBe('no')
    for (let time = 0; time < 12; time++) {
      const names = freshNames()
      const inTheWay = await others.acquire(names[time % 3]!)
      const caller = new AbortController()
      const waiting = settled(locks.acquireAll(names, { signal: caller.signal }))
      if (time % 2 === 0) await untilWaiting(others, inTheWay.name)
      const releasing = inTheWay.release()
      for (let turn = 0; turn < time; turn++) await new Promise((resolve) => setImmediate(resolve))
      caller.abort('not wanted any more')
      const outcome = await waiting
      await releasing
      if (outcome.status === 'fulfilled') await outcome.value.release()
      else expect(outcome.reason).toBe('not wanted any more')
      await untilNoneHeld(names)
    }
  })

  it('serves callers in the order in which they came', async () => {
    const { locks, others } = subject
    const [first, second] = freshNames() as [string, string]
    const order: string[] = []
    const inTheWay = await others.acquire(second)
    const one = others.acquire(second).then(async (lease) => {
      order.push('one')
      await lease.release()
    })
    await untilWaiting(others, second, 1)
    const both = locks.acquireAll([first, second]).then(async (leases) => {
      order.push('both')
      await leases.release()
    })
    await untilWaiting(others, second, 2)
    const other = others.acquire(second).then(async (lease) => {
      order.push('other')
      await lease.release()
    })
    await untilWaiting(others, second, 3)
    await inTheWay.release()
    await Promise.all([one, both, other])
    expect(order).toEqual(['one', 'both', 'other'])
  })

  it('never deadlocks, whatever the orders and the overlaps, and leaves nothing', async () => {
    const { locks, others } = subject
    const names = freshNames(5)
    const inside = new Map<string, number>()
    const caller = async (instance: Locks<unknown>) => {
      for (let turn = 0; turn < 4; turn++) {
        const wanted = names.filter(() => Math.random() < 0.5).sort(() => Math.random() - 0.5)
        const leases = await instance.acquireAll(wanted.length === 0 ? names : wanted)
        for (const { name } of leases.leases) {
          expect(inside.get(name) ?? 0).toBe(0)
          inside.set(name, 1)
        }
        await sleep(Math.random() * 3)
        for (const { name } of leases.leases) inside.set(name, 0)
        expect(await leases.release()).toBe(true)
      }
    }
    await Promise.all(Array.from({ length: 8 }, (_, index) => caller(index % 2 === 0 ? locks : others)))
    expect(await held(names)).toEqual(names.map(() => false))
  })

  it('loses all with one of them, and releases the others', async () => {
    const { locks, others } = subject
    const losses: ((leases: Leases<unknown>) => Promise<unknown>)[] = [
      (leases) => leases.extend('1m'),
      (leases) => leases.leases[1]!.extend('1m'),
      (leases) => subject.connected.transaction((tx) => Promise.resolve(leases.guard(tx))),
      (leases) => subject.connected.transaction((tx) => leases.release(tx)),
    ]
    for (const notice of losses) {
      const names = freshNames()
      const leases = await locks.acquireAll(names)
      const { signal } = leases
      expect(await others.forceRelease(names[1]!)).toBe(true)
      const error = await (async () => notice(leases))().catch((error: unknown) => error)
      expect(error).toBeInstanceOf(LockLostError)
      expect(error).toMatchObject({ lock: names[1] })
      expect(signal.aborted).toBe(true)
      expect(signal.reason).toMatchObject({ code: 'LOCK_LOST', lock: names[1] })
      for (const lease of leases.leases) expect(lease.signal.aborted).toBe(true)
      expect(leases.isHeld()).toBe(false)
      expect(leases.remainingMs()).toBe(0)
      await untilNoneHeld(names)
      await expect(leases.extend('1m')).rejects.toMatchObject({ code: 'LOCK_LOST', lock: names[1] })
      expect(await leases.release()).toBe(false)
    }
  })

  it('asks again for one that it loses while it waits for another', async () => {
    const { locks, others } = subject
    const names = freshNames()
    const inTheWay = await others.acquire(names[2]!)
    const waiting = locks.acquireAll(names, { ttl: '3s' })
    await untilWaiting(others, names[2]!)
    const token = (await others.inspect(names[0]!))!.token
    await others.forceRelease(names[0]!)
    const thief = await others.acquire(names[0]!)
    await untilWaiting(others, names[0]!)
    await eventually(async () => expect(await held(names)).toEqual([true, false, true]))
    await thief.release()
    await untilWaiting(others, names[2]!)
    await inTheWay.release()
    const leases = await waiting
    expect(leases.leases[0]!.token).toBeGreaterThan(token)
    expect(leases.isHeld()).toBe(true)
    expect(await leases.release()).toBe(true)
    await untilNoneHeld(names)
  })

  it('guards a commit by all of them', async () => {
    const { locks, others, connected } = subject
    const names = freshNames()
    const leases = await locks.acquireAll(names, { ttl: '900ms', renew: false })
    await connected.transaction(async (tx) => {
      await leases.guard(() => tx)
      await eventually(() => expect(leases.isHeld()).toBe(false))
      await sleep(50)
      if (isConcurrent) for (const name of names) expect(await others.tryAcquire(name)).toBeNull()
    })
    await untilNoneHeld(names)
    await (await others.acquireAll(names)).release()
  })

  it('is given back with the commit of a transaction, or not at all', async () => {
    const { locks, others, connected } = subject
    const names = freshNames()
    const leases = await locks.acquireAll(names)
    await connected.transaction(async (tx) => {
      expect(await leases.release(tx)).toBe(true)
    })
    expect(await held(names)).toEqual([false, false, false])
    const again = await others.acquireAll(names)
    await again.release()

    const kept = await locks.acquireAll(names)
    const undo = new Error('undo')
    const rolledBack = connected.transaction(async (tx) => {
      await kept.release(tx)
      throw undo
    })
    await expect(rolledBack).rejects.toBe(undo)
    expect(await held(names)).toEqual([true, true, true])
    await kept.release()
    await untilNoneHeld(names)
  })

  it('is over when the instance is closed, waiting or held', async () => {
    const { database, others } = subject
    const locks = await database.locks(DEFAULTS)
    const names = freshNames()
    const leases = await locks.acquireAll(names)
    const waiting = settled(locks.acquireAll([`${names[0]} before`, ...names]))
    await untilWaiting(others, names[0]!)
    await locks.close()
    expect(leases.signal.aborted).toBe(true)
    expect(await waiting).toMatchObject({ status: 'rejected', reason: { code: 'INVALID_ARGUMENT' } })
    await untilNoneHeld([...names, `${names[0]} before`])
  })

  it('is refused at once where it would wait for its own caller', async () => {
    const { locks, connected } = subject
    const names = freshNames()
    await locks.run(names[1]!, {}, async (lease) => {
      const refused = { code: 'DEADLOCK' }
      await expect(locks.acquireAll(names)).rejects.toMatchObject(refused)
      await expect(locks.acquireAll(names, { holding: [lease] })).rejects.toMatchObject(refused)
      expect(await locks.tryAcquireAll(names)).toBeNull()
      const within = connected.transaction(async (tx) => void (await locks.within(tx).acquireAll(names)))
      await expect(within).rejects.toMatchObject(refused)
    })
    await untilNoneHeld(names)
  })

  it('disposes of itself, and goes on as single leases do', async () => {
    const { locks, others } = subject
    const names = freshNames()
    {
      await using leases = await locks.acquireAll(names)
      const copy = await others.restore(leases.leases[0]!.toJSON())
      expect(copy.token).toBe(leases.leases[0]!.token)
    }
    expect(await held(names)).toEqual([false, false, false])
  })
}

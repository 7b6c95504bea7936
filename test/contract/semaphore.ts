import { expect, it } from 'vitest'
import { LockTimeoutError } from '../../src/index.ts'
import { freshName } from '../engines.ts'
import { eventually, recordEvents, type Subject, settled, sleep, untilWaiting } from './harness.ts'

const CALLERS = 60
const INVALID = { code: 'INVALID_ARGUMENT' }

export function semaphoreSuite(subject: Subject): void {
  const both = (name: string, permits: number) =>
    [subject.locks.semaphore(name, { permits }), subject.others.semaphore(name, { permits })] as const

  it('gives out its permits, by weight, and no more', async () => {
    const name = freshName()
    const [here, there] = both(name, 5)
    const heavy = await here.acquire({ weight: 3 })
    expect(heavy.mode).toBe('shared')
    expect(await there.available()).toBe(2)
    expect(await there.tryAcquire({ weight: 3 })).toBeNull()
    const [one, two] = await Promise.all([there.acquire(), there.acquire({ weight: 1 })])
    expect(await here.available()).toBe(0)
    expect(await here.tryAcquire()).toBeNull()
    await expect(here.acquire({ wait: '20ms' })).rejects.toThrow(LockTimeoutError)
    expect(new Set([heavy, one, two].map(({ token }) => token)).size).toBe(3)
    expect(await heavy.release()).toBe(true)
    expect(await here.available()).toBe(3)
    expect([await one.release(), await two.release()]).toEqual([true, true])
    expect(await here.available()).toBe(5)
  })

  it('is waited for no longer than its caller wants, from the first call on', async () => {
    const { locks } = subject
    const signal = AbortSignal.abort('left')
    await expect(locks.semaphore(freshName(), { permits: 2 }).acquire({ signal })).rejects.toBe('left')
  })

  it('is granted in the order of the calls: a heavy request is not passed by lighter ones', async () => {
    const name = freshName()
    const [here, there] = both(name, 3)
    const order: string[] = []
    const note = (caller: string) => () => void order.push(caller)
    const first = await here.acquire({ weight: 2 })
    const heavy = there.acquire({ weight: 3 })
    heavy.then(note('heavy'))
    await untilWaiting(subject.locks, name)
    const light = here.acquire()
    light.then(note('light'))
    await untilWaiting(subject.locks, name, 2)
    expect(await there.tryAcquire()).toBeNull()
    expect(await here.available()).toBe(1)
    await first.release()
    await (await heavy).release()
    await (await light).release()
    expect(order).toEqual(['heavy', 'light'])
  })

  it('hands over to as many as fit at once', async () => {
    const name = freshName()
    const [here, there] = both(name, 4)
    const first = await here.acquire({ weight: 4 })
    const waiting = [here.acquire(), there.acquire({ weight: 2 }), here.acquire()]
    await untilWaiting(subject.locks, name, 3)
    await first.release()
    const leases = await Promise.all(waiting)
    expect(await here.available()).toBe(0)
    await Promise.all(leases.map((lease) => lease.release()))
    expect(await here.available()).toBe(4)
  })

  it('never has more weight held than there are permits', async () => {
    const name = freshName()
    const [here, there] = both(name, 4)
    let [held, most] = [0, 0]
    const use = async (index: number) => {
      const weight = 1 + (index % 4)
      const lease = await (index % 2 ? here : there).acquire({ weight })
      held += weight
      most = Math.max(most, held)
      await sleep(1)
      held -= weight
      expect(await lease.release()).toBe(true)
    }
    await Promise.all(Array.from({ length: CALLERS }, (_, index) => use(index)))
    expect(most).toBeLessThanOrEqual(4)
    expect(most).toBeGreaterThan(1)
    expect(await here.available()).toBe(4)
  })

  it('takes permits back from holders that do not renew them, each once', async () => {
    const name = freshName()
    const [here, there] = both(name, 2)
    const abandoned = await here.acquire({ weight: 2, ttl: '300ms', renew: false })
    const leases = await Promise.all([there.acquire(), there.acquire()])
    expect(await abandoned.release()).toBe(false)
    expect(await here.available()).toBe(0)
    await Promise.all(leases.map((lease) => lease.release()))
    expect(await here.available()).toBe(2)
  })

  it('runs bodies under its permits', async () => {
    const name = freshName()
    const [here, there] = both(name, 2)
    const outcome = await here.run({ weight: 2 }, async (lease) => {
      expect(lease.isHeld()).toBe(true)
      return there.tryRun({}, () => 'ran')
    })
    expect(outcome).toEqual({ ran: false })
    expect(await there.tryRun({ weight: 2 }, () => 'ran')).toEqual({ ran: true, value: 'ran' })
    expect(await here.available()).toBe(2)
  })

  it('is shown with its permits, holders and weights', async () => {
    const name = freshName()
    const [here, there] = both(name, 5)
    const lease = await here.acquire({ weight: 4 })
    const waiting = there.acquire({ weight: 2 })
    await untilWaiting(subject.locks, name)
    const shown = {
      name,
      permits: 5,
      mode: 'shared',
      holders: [{ owner: lease.owner, weight: 4 }],
      queue: [{ mode: 'shared', weight: 2, waiters: 1 }],
    }
    expect(await subject.locks.inspect(name)).toMatchObject(shown)
    expect(await subject.others.list({ prefix: name })).toMatchObject([shown])
    await lease.release()
    await (await waiting).release()
  })

  it('has as many permits as the database says, and warns once of another number', async () => {
    const { locks, others } = subject
    const name = freshName()
    await (await others.semaphore(name, { permits: 2 }).acquire()).release()
    const events = recordEvents(locks)
    const semaphore = locks.semaphore(name, { permits: 3 })
    expect(await semaphore.available()).toBe(2)
    expect(await locks.semaphore(name, { permits: 3 }).available()).toBe(2)
    await expect(semaphore.acquire({ weight: 3 })).rejects.toMatchObject(INVALID)
    await (await semaphore.acquire({ weight: 2 })).release()
    const warnings = events.filter((event) => event.type === 'warning' && event.message.includes(name))
    expect(warnings).toHaveLength(1)
    const strict = locks.semaphore(name, { permits: 3, strict: true })
    await expect(strict.acquire()).rejects.toMatchObject({ ...INVALID, message: expect.stringContaining('2 permits') })
    await expect(strict.available()).rejects.toMatchObject(INVALID)
    await (await locks.semaphore(name, { permits: 2, strict: true }).acquire()).release()
  })

  it('is no lock, and a lock no semaphore', async () => {
    const { locks, others, connected } = subject
    const [lock, name] = [freshName(), freshName()]
    const lease = await locks.acquire(lock)
    const wrong = others.semaphore(lock, { permits: 3 })
    for (const call of [wrong.acquire(), wrong.tryAcquire(), wrong.available(), wrong.resize(2)]) {
      await expect(call).rejects.toMatchObject({ ...INVALID, message: expect.stringContaining('lock') })
    }
    await lease.release()
    const permit = await locks.semaphore(name, { permits: 1 }).acquire()
    for (const mode of ['exclusive', 'shared'] as const) {
      await expect(others.acquire(name, { mode })).rejects.toMatchObject(INVALID)
      await expect(others.tryAcquire(name, { mode })).rejects.toMatchObject(INVALID)
    }
    await connected.transaction(async (tx) => {
      await expect(locks.within(tx).acquire(name)).rejects.toMatchObject(INVALID)
      await expect(locks.within(tx).tryAcquire(name)).rejects.toMatchObject(INVALID)
    })
    expect(await locks.inspect(name)).toMatchObject({ permits: 1, holders: [{ owner: permit.owner }], queue: [] })
    await permit.release()
  })

  it('refuses numbers that it cannot have, and changes nothing', async () => {
    const { locks } = subject
    const name = freshName()
    for (const permits of [0, -1, 1.5, Number.NaN, 2 ** 31, '3' as never, undefined as never]) {
      expect(() => locks.semaphore(name, { permits })).toThrow(expect.objectContaining(INVALID))
    }
    expect(() => locks.semaphore('', { permits: 1 })).toThrow(expect.objectContaining(INVALID))
    expect(() => locks.semaphore(name, undefined as never)).toThrow(expect.objectContaining(INVALID))
    expect(() => locks.semaphore(name, { permits: 1, strict: 1 as never })).toThrow(expect.objectContaining(INVALID))
    const semaphore = locks.semaphore(name, { permits: 3 })
    for (const weight of [0, -1, 1.5, Number.NaN, 4, '1' as never, null as never]) {
      await expect(semaphore.acquire({ weight })).rejects.toMatchObject(INVALID)
      await expect(semaphore.tryAcquire({ weight })).rejects.toMatchObject(INVALID)
    }
    await expect(semaphore.acquire({ mode: 'shared' } as never)).rejects.toMatchObject(INVALID)
    await expect(semaphore.resize(0)).rejects.toMatchObject(INVALID)
    expect(await semaphore.available()).toBe(3)
  })

  it('grows, and gives what is new to those who wait', async () => {
    const name = freshName()
    const [here, there] = both(name, 1)
    const first = await here.acquire()
    const waiting = [there.acquire(), here.acquire({})]
    await untilWaiting(subject.locks, name, 2)
    await there.resize(3)
    const leases = await Promise.all(waiting)
    expect(await here.available()).toBe(0)
    await Promise.all([first, ...leases].map((lease) => lease.release()))
    expect(await here.available()).toBe(3)
    await (await there.acquire({ weight: 3 })).release()
  })

  it('shrinks, and grants nothing until what is held fits', async () => {
    const name = freshName()
    const [here, there] = both(name, 4)
    const held = [await here.acquire({ weight: 2 }), await there.acquire({ weight: 2 })]
    const waiting = here.acquire({ weight: 2 })
    const tooHeavy = settled(there.acquire({ weight: 4 }))
    await untilWaiting(subject.locks, name, 2)
    await here.resize(2)
    expect(await tooHeavy).toMatchObject({ status: 'rejected', reason: INVALID })
    expect(await there.available()).toBe(0)
    await held[0]!.release()
    expect(held[1]!.isHeld()).toBe(true)
    expect(await there.tryAcquire()).toBeNull()
    await held[1]!.release()
    await (await waiting).release()
    expect(await there.available()).toBe(2)
  })

  it('protects what is written under its permits', async () => {
    const { connected, others } = subject
    const name = freshName()
    const [here] = both(name, 2)
    const lease = await here.acquire()
    await connected.transaction(async (tx) => lease.guard(tx))
    const copy = await others.restore(lease.toJSON())
    expect(await others.forceRelease(name, { token: lease.token })).toBe(true)
    await expect(connected.transaction(async (tx) => lease.guard(tx))).rejects.toMatchObject({ code: 'LOCK_LOST' })
    expect(await copy.release()).toBe(false)
    expect(await here.available()).toBe(2)
  })

  it('is made anew, with as many permits, after it was purged', async () => {
    const { locks } = subject
    const name = freshName()
    const semaphore = locks.semaphore(name, { permits: 2 })
    await (await semaphore.acquire()).release()
    await eventually(async () => {
      await locks.purge({ idleFor: 0 })
      expect(await semaphore.available()).toBe(2)
    })
    const leases = await Promise.all([semaphore.acquire(), semaphore.acquire()])
    expect(await semaphore.tryAcquire()).toBeNull()
    await Promise.all(leases.map((lease) => lease.release()))
  })
}

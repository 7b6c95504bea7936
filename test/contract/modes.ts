import { describe, expect, it } from 'vitest'
import { createLocks, type Lease, LockLostError, LockTimeoutError } from '../../src/index.ts'
import { freshName } from '../engines.ts'
import {
  connectionReset,
  DEFAULTS,
  eventOf,
  eventually,
  openTransaction,
  recordEvents,
  type Subject,
  settled,
  sleep,
  tap,
  untilFree,
  untilWaiting,
} from './harness.ts'

const SHARED = { mode: 'shared' } as const
const CALLERS = 60

export function modesSuite(subject: Subject): void {
  const { engine } = subject
  /** Whether a lock can be had beside an open transaction. */
  const isConcurrent = engine.engine === 'memory' || (engine.shared && engine.engine !== 'sqlite')

  const releaseAll = (leases: readonly Lease<unknown>[]) => Promise.all(leases.map((lease) => lease.release()))
  const isTaken = async (name: string, options = {}) => {
    const lease = await subject.others.tryAcquire(name, options)
    await lease?.release()
    return lease === null
  }

  it('is held by any number of those who share it, each with its own owner and token', async () => {
    const { locks, others } = subject
    const name = freshName()
    const leases = await Promise.all(
      Array.from({ length: 20 }, (_, index) => (index % 2 ? locks : others).acquire(name, SHARED)),
    )
    expect(new Set(leases.map(({ token }) => token)).size).toBe(20)
    expect(new Set(leases.map(({ owner }) => owner)).size).toBe(20)
    expect(leases.every((lease) => lease.mode === 'shared' && lease.isHeld())).toBe(true)
    for (const lease of leases) {
      expect(await isTaken(name)).toBe(true)
      expect(await lease.release()).toBe(true)
    }
    const alone = await locks.acquire(name)
    expect(alone.mode).toBe('exclusive')
    expect(alone.token > leases.map(({ token }) => token).reduce((a, b) => (a > b ? a : b))).toBe(true)
    expect(await isTaken(name, SHARED)).toBe(true)
    await alone.release()
  })

  it('is released, renewed and extended, each lease by itself', async () => {
    const { locks, others } = subject
    const name = freshName()
    const events = recordEvents(locks)
    const [first, second] = await Promise.all([
      locks.acquire(name, { ...SHARED, ttl: '1s' }),
      locks.acquire(name, { ...SHARED, ttl: '1s', renew: false }),
    ])
    await first.extend('2s')
    await eventually(() => expect(second.isHeld()).toBe(false))
    expect(await eventOf(events, 'lost', name)).toMatchObject({ owner: second.owner, mode: 'shared' })
    expect(await eventOf(events, 'renewed', name)).toMatchObject({ owner: first.owner, mode: 'shared' })
    expect(first.isHeld()).toBe(true)
    await eventually(async () => expect((await others.inspect(name))?.holders).toMatchObject([{ owner: first.owner }]))
    expect(await first.release()).toBe(true)
    expect(await second.release()).toBe(false)
  })

  it('can be taken over from one that shared it, once its lease ran out', async () => {
    const { locks, others } = subject
    const name = freshName()
    const events = recordEvents(others)
    const abandoned = await locks.acquire(name, { ...SHARED, ttl: '300ms', renew: false })
    const lease = await others.acquire(name)
    expect(lease.token > abandoned.token).toBe(true)
    expect(abandoned.isHeld()).toBe(false)
    expect(await eventOf(events, 'takeover', name)).toMatchObject({ owner: lease.owner, mode: 'exclusive' })
    expect(await abandoned.release()).toBe(false)
    await lease.release()
  })

  it('is granted in the order of the calls, across modes and instances, and to all who share it at once', async () => {
    const { locks, others } = subject
    const name = freshName()
    const order: string[] = []
    const leases = new Map<string, Lease<unknown>>()
    const first = await others.acquire(name, SHARED)
    const callers = [
      ['writer 1', locks, {}],
      ['reader 1', others, SHARED],
      ['reader 2', locks, SHARED],
      ['reader 3', locks, SHARED],
      ['writer 2', others, {}],
      ['reader 4', locks, SHARED],
    ] as const
    const served: Promise<void>[] = []
    for (const [index, [caller, by, options]] of callers.entries()) {
      const acquiring = by.acquire(name, options)
      served.push(
        acquiring.then((lease) => {
          order.push(caller)
          leases.set(caller, lease)
        }),
      )
      await untilWaiting(locks, name, index + 1)
    }
    const release = async (caller: string) => {
      await eventually(() => expect(leases.has(caller)).toBe(true))
      await leases.get(caller)!.release()
    }
    expect(await isTaken(name, SHARED)).toBe(true)
    await first.release()
    await release('writer 1')
    await Promise.all(served.slice(1, 4))
    expect(new Set(order.slice(1))).toEqual(new Set(['reader 1', 'reader 2', 'reader 3']))
    expect((await locks.inspect(name))?.holders).toHaveLength(3)
    for (const caller of ['reader 1', 'reader 2', 'reader 3', 'writer 2', 'reader 4']) await release(caller)
    await Promise.all(served)
    expect(order.slice(4)).toEqual(['writer 2', 'reader 4'])
  })

  it('lets those in who wait behind one that gives up', async () => {
    const { locks, others } = subject
    const name = freshName()
    const first = await locks.acquire(name, SHARED)
    const controller = new AbortController()
    const writer = settled(others.acquire(name, { signal: controller.signal }))
    await untilWaiting(locks, name)
    const readers = [locks.acquire(name, SHARED), others.acquire(name, SHARED)]
    await untilWaiting(locks, name, 3)
    controller.abort(new Error('not any more'))
    expect(await writer).toMatchObject({ status: 'rejected' })
    await releaseAll(await Promise.all(readers))
    expect(first.isHeld()).toBe(true)
    await first.release()
  })

  it('never has a writer beside a reader, nor starves either', async () => {
    const { locks, others } = subject
    const name = freshName()
    let [readers, writers, most] = [0, 0, 0]
    const use = async (index: number) => {
      const isWriter = index % 5 === 0
      const lease = await (index % 2 ? locks : others).acquire(name, isWriter ? {} : SHARED)
      if (isWriter) writers++
      else readers++
      most = Math.max(most, readers)
      expect(writers).toBeLessThanOrEqual(1)
      if (writers > 0) expect(readers).toBe(0)
      await sleep(1)
      if (isWriter) writers--
      else readers--
      expect(await lease.release()).toBe(true)
    }
    await Promise.all(Array.from({ length: CALLERS }, (_, index) => use(index)))
    expect(most).toBeGreaterThan(1)
    expect(await locks.inspect(name)).toBeNull()
  })

  it('runs bodies beside each other', async () => {
    const { locks, others } = subject
    const name = freshName()
    const inner = await locks.run(name, SHARED, () => others.tryRun(name, SHARED, () => isTaken(name)))
    expect(inner).toEqual({ ran: true, value: true })
    expect(await locks.run(name, SHARED, () => others.tryRun(name, {}, () => 'alone'))).toEqual({ ran: false })
  })

  it('tells who shares it and who waits for it', async () => {
    const { locks, others } = subject
    const name = freshName()
    const first = await locks.acquire(name, SHARED)
    const second = await others.acquire(name, SHARED)
    const writer = others.acquire(name)
    await untilWaiting(locks, name)
    const reader = locks.acquire(name, SHARED)
    await untilWaiting(locks, name, 2)
    const state = await locks.inspect(name)
    expect(state).toMatchObject({
      owner: first.owner,
      mode: 'shared',
      holders: [
        { owner: first.owner, token: first.token, weight: 1 },
        { owner: second.owner, token: second.token, weight: 1 },
      ],
      queue: [
        { mode: 'exclusive', waiters: 1 },
        { mode: 'shared', weight: 1, waiters: 1 },
      ],
    })
    expect(await locks.list({ prefix: name })).toMatchObject([{ name, mode: 'shared', waiters: 2 }])
    await releaseAll([first, second])
    await (await writer).release()
    await (await reader).release()
  })

  it('goes on from its JSON form', async () => {
    const { locks, others } = subject
    const name = freshName()
    const lease = await locks.acquire(name, { ...SHARED, ttl: '20s' })
    const beside = await locks.acquire(name, SHARED)
    const copy = await others.restore(JSON.parse(JSON.stringify(lease)))
    expect(copy).toMatchObject({ name, owner: lease.owner, token: lease.token, mode: 'shared' })
    expect(await copy.release()).toBe(true)
    expect(await lease.release()).toBe(false)
    await expect(others.restore(lease.toJSON())).rejects.toThrow(LockLostError)
    expect(await beside.release()).toBe(true)
  })

  it('is force-released from all, or from the one with that token', async () => {
    const { locks, others } = subject
    const name = freshName()
    const [first, second, third] = await Promise.all([1, 2, 3].map(() => locks.acquire(name, SHARED)))
    expect(await others.forceRelease(name, { token: 1n })).toBe(false)
    expect(await others.forceRelease(name, { token: first!.token })).toBe(true)
    expect(await others.forceRelease(name, { token: first!.token })).toBe(false)
    await expect(first!.extend('30s')).rejects.toThrow(LockLostError)
    await second!.extend('30s')
    const writer = others.acquire(name)
    await untilWaiting(locks, name)
    expect(await others.forceRelease(name)).toBe(true)
    const lease = await writer
    expect(await second!.release()).toBe(false)
    expect(await third!.release()).toBe(false)
    expect(await others.forceRelease(name, { token: third!.token })).toBe(false)
    expect(lease.isHeld()).toBe(true)
    await lease.release()
  })

  it('is released when its instance is closed', async () => {
    const { database, others } = subject
    const locks = await database.locks()
    const name = freshName()
    const leases = await Promise.all([1, 2, 3].map(() => locks.acquire(name, SHARED)))
    await locks.close()
    expect(leases.some((lease) => lease.isHeld())).toBe(false)
    await (await others.acquire(name, { wait: 0 })).release()
  })

  it('refuses modes that there are not, and changes nothing', async () => {
    const { locks, connected } = subject
    const name = freshName()
    const wrong = { mode: 'read' } as never
    const invalid = { code: 'INVALID_ARGUMENT', message: expect.stringContaining('mode') }
    await expect(locks.acquire(name, wrong)).rejects.toMatchObject(invalid)
    await expect(locks.tryAcquire(name, { mode: null } as never)).rejects.toMatchObject(invalid)
    await expect(locks.run(name, wrong, () => undefined)).rejects.toMatchObject(invalid)
    await connected.transaction(async (tx) => {
      await expect(locks.within(tx).acquire(name, wrong)).rejects.toMatchObject(invalid)
      await expect(locks.within(tx).lease(name, { mode: 'shared' } as never)).rejects.toMatchObject({
        code: 'UNSUPPORTED',
      })
    })
    await expect(locks.forceRelease(name, { token: 7 } as never)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
    expect(await locks.inspect(name)).toBeNull()
  })

  it('is taken with others, all or none', async () => {
    const { locks, others } = subject
    const names = [freshName(), freshName(), freshName()]
    const beside = await others.acquire(names[1]!, SHARED)
    const all = await locks.acquireAll(names, SHARED)
    expect(all.leases.map(({ mode }) => mode)).toEqual(['shared', 'shared', 'shared'])
    expect(await others.tryAcquireAll(names)).toBeNull()
    expect(await all.release()).toBe(true)
    const held = await others.acquire(names[2]!)
    expect(await locks.tryAcquireAll(names, SHARED)).toBeNull()
    const waiting = locks.acquireAll(names, SHARED)
    await untilWaiting(others, names[2]!)
    await held.release()
    const rest = await waiting
    expect(rest.isHeld()).toBe(true)
    await rest.extend('50s')
    await rest.release()
    await beside.release()
    for (const name of names) await untilFree(locks, name)
  })

  it('is not to be had alone by who shares it', async () => {
    const { locks } = subject
    const name = freshName()
    const deadlock = { code: 'DEADLOCK' }
    await locks.run(name, SHARED, async () => {
      await expect(locks.acquire(name)).rejects.toMatchObject(deadlock)
      await expect(locks.run(name, {}, () => undefined)).rejects.toMatchObject(deadlock)
      await expect(locks.run(name, { reenter: true }, () => undefined)).rejects.toMatchObject(deadlock)
      expect(await locks.tryRun(name, { reenter: true }, () => undefined)).toEqual({ ran: false })
      expect(await locks.run(name, { ...SHARED, reenter: true }, ({ mode }) => mode)).toBe('shared')
      expect(await locks.tryAcquire(name)).toBeNull()
    })
    const inner = locks.run(name, {}, () => locks.run(name, { ...SHARED, reenter: true }, ({ mode }) => mode))
    expect(await inner).toBe('exclusive')
    const lease = await locks.acquire(name, SHARED)
    await expect(locks.acquire(name, { holding: [lease] })).rejects.toMatchObject(deadlock)
    await lease.release()
  })

  describe('downgrade', () => {
    it('shares an exclusive lease, with nobody in between', async () => {
      const { locks, others } = subject
      const name = freshName()
      const events = recordEvents(locks)
      const lease = await locks.acquire(name)
      const { token, owner } = lease
      const readers = [others.acquire(name, SHARED), locks.acquire(name, SHARED)]
      await untilWaiting(locks, name, 2)
      const writer = others.acquire(name)
      await untilWaiting(locks, name, 3)
      const last = others.acquire(name, SHARED)
      await untilWaiting(locks, name, 4)
      await lease.downgrade()
      expect(lease).toMatchObject({ mode: 'shared', token, owner })
      expect(await eventOf(events, 'downgraded', name)).toEqual({
        type: 'downgraded',
        name,
        token,
        owner,
        mode: 'shared',
      })
      const leases = await Promise.all(readers)
      expect(lease.isHeld()).toBe(true)
      expect((await locks.inspect(name))?.holders.map((holder) => holder.token)).toEqual(
        [token, ...leases.map((reader) => reader.token)].sort((a, b) => Number(a - b)),
      )
      await lease.extend('30s')
      await releaseAll([lease, ...leases])
      await (await writer).release()
      await (await last).release()
    })

    it('keeps the lease renewed, also one that was handed over a moment ago', async () => {
      const { locks, others } = subject
      const name = freshName()
      const first = await others.acquire(name)
      const waiting = locks.acquire(name, { ttl: '2s' })
      await untilWaiting(locks, name)
      await first.release()
      const lease = await waiting
      await lease.downgrade()
      await sleep(2500)
      expect(lease.isHeld()).toBe(true)
      expect(await lease.release()).toBe(true)
    })

    it('does nothing to a lease that is shared, and fails of one that is over', async () => {
      const { locks, others } = subject
      const name = freshName()
      const lease = await locks.acquire(name, SHARED)
      await lease.downgrade()
      expect(lease.mode).toBe('shared')
      await lease.release()
      await expect(lease.downgrade()).rejects.toThrow(LockLostError)
      const forced = await locks.acquire(name)
      await others.forceRelease(name)
      await expect(forced.downgrade()).rejects.toThrow(LockLostError)
      expect(forced.isHeld()).toBe(false)
    })

    it('may be asked for several times at once, while the lease is extended and released', async () => {
      const { locks } = subject
      const name = freshName()
      const lease = await locks.acquire(name)
      await Promise.all([lease.downgrade(), lease.extend('30s'), lease.downgrade(), lease.extend('40s')])
      expect(lease.isHeld()).toBe(true)
      expect(lease.mode).toBe('shared')
      expect(await lease.release()).toBe(true)
      const other = await locks.acquire(name)
      const [downgraded, released] = await Promise.all([settled(other.downgrade()), other.release()])
      expect(released).toBe(true)
      if (downgraded.status === 'rejected') expect(downgraded.reason).toBeInstanceOf(LockLostError)
      await untilFree(locks, name)
    })

    it.runIf(isConcurrent && engine.engine !== 'memory')(
      'has happened, or not, if its reply is lost: the lease goes on',
      async () => {
        const { others, connected } = subject
        const tapped = tap(connected.adapter)
        const locks = createLocks(tapped.adapter, { ...DEFAULTS, ownConnection: false })
        const uses: ((lease: Lease<unknown>) => Promise<unknown>)[] = [
          (lease) => lease.extend('30s'),
          (lease) => connected.transaction(async (tx) => lease.guard(tx)),
          (lease) => lease.downgrade(),
          (lease) => lease.release(),
        ]
        for (const reachesIt of [true, false]) {
          for (const use of uses) {
            const lease = await locks.acquire(freshName())
            tapped.intercept = async (forward) => {
              if (reachesIt) await forward()
              throw connectionReset()
            }
            await expect(lease.downgrade()).rejects.toMatchObject({ code: 'DATABASE' })
            tapped.intercept = null
            expect(lease.isHeld()).toBe(true)
            await use(lease)
            expect(lease.mode).toBe('shared')
            expect(await lease.release()).toBe(true)
            expect(await others.inspect(lease.name)).toBeNull()
          }
        }
        await locks.close()
      },
    )

    it.runIf(isConcurrent)('waits for the end of a transaction that the lease guards', async () => {
      const { locks, connected } = subject
      const lease = await locks.acquire(freshName())
      const commit = await openTransaction(connected, (tx) => lease.guard(tx))
      let downgraded = false
      const downgrading = lease.downgrade().then(() => {
        downgraded = true
      })
      await sleep(50)
      expect(downgraded).toBe(false)
      expect(await isTaken(lease.name, SHARED)).toBe(true)
      await commit()
      await downgrading
      expect(await isTaken(lease.name, SHARED)).toBe(false)
      await lease.release()
    })
  })

  describe('guards', () => {
    it('protects what is written under a lease that is shared', async () => {
      const { locks, others, connected } = subject
      const lease = await locks.acquire(freshName(), SHARED)
      await connected.transaction(async (tx) => lease.guard(tx))
      expect(lease.isHeld()).toBe(true)
      await others.forceRelease(lease.name)
      await expect(connected.transaction(async (tx) => lease.guard(tx))).rejects.toThrow(LockLostError)
    })

    it('goes with a downgrade', async () => {
      const { locks, connected } = subject
      const lease = await locks.acquire(freshName())
      await lease.downgrade()
      await connected.transaction(async (tx) => lease.guard(tx))
      expect(lease.isHeld()).toBe(true)
      await lease.release()
    })

    it.runIf(isConcurrent)('do not wait for each other, and keep writers out until they end', async () => {
      const { locks, others, database } = subject
      const name = freshName()
      const terms = { ...SHARED, ttl: '2s', renew: false } as const
      const one = await locks.acquire(name, terms)
      const other = await others.acquire(name, terms)
      const commits = [
        await openTransaction(await database.connect(), (tx) => one.guard(tx)),
        await openTransaction(await database.connect(), (tx) => other.guard(tx)),
      ]
      await eventually(() => expect(one.isHeld() || other.isHeld()).toBe(false))
      await untilFree(locks, name)
      expect(await isTaken(name)).toBe(true)
      expect(await isTaken(name, SHARED)).toBe(false)
      await commits[0]!()
      expect(await isTaken(name)).toBe(true)
      const writer = others.acquire(name)
      await commits[1]!()
      await (await writer).release()
    })

    it('gives a shared lease back with the commit', async () => {
      const { locks, connected } = subject
      const lease = await locks.acquire(freshName(), SHARED)
      const beside = await locks.acquire(lease.name, SHARED)
      expect(await connected.transaction((tx) => lease.release(tx)).catch(String)).toBe(true)
      await eventually(async () => expect((await locks.inspect(lease.name))?.holders).toHaveLength(1))
      await beside.release()
    })
  })

  describe('within a transaction', () => {
    it.skipIf(isConcurrent)('is unsupported where there is one connection', async () => {
      const { locks, connected } = subject
      if (engine.engine === 'sqlite') return
      await connected.transaction(async (tx) => {
        await expect(locks.within(tx).acquire(freshName(), SHARED)).rejects.toMatchObject({ code: 'UNSUPPORTED' })
      })
    })

    it.runIf(isConcurrent)('is shared until the transaction ends, and then free', async () => {
      const { locks, others, connected, database } = subject
      const name = freshName()
      const lease = await others.acquire(name, SHARED)
      const tokens: bigint[] = []
      const share = async (tx: unknown) => {
        tokens.push((await locks.within(tx).acquire(name, SHARED)).token)
      }
      const commits = [await openTransaction(connected, share), await openTransaction(await database.connect(), share)]
      expect(tokens[0]! > lease.token && tokens[1]! > tokens[0]!).toBe(true)
      await lease.release()
      // Longer than the moment for which it was granted.
      await sleep(1200)
      expect(await isTaken(name)).toBe(true)
      expect(await isTaken(name, SHARED)).toBe(false)
      await commits[0]!()
      expect(await isTaken(name)).toBe(true)
      const writer = others.acquire(name)
      await commits[1]!()
      const { token, release } = await writer.then((lease) => ({ token: lease.token, release: () => lease.release() }))
      expect(token > tokens[1]!).toBe(true)
      await release()
    })

    it.runIf(isConcurrent)('is free a moment after a rollback', async () => {
      const { locks, others, connected } = subject
      const name = freshName()
      const rolledBack = connected.transaction(async (tx) => {
        await locks.within(tx).acquire(name, SHARED)
        throw new Error('not that')
      })
      await expect(rolledBack).rejects.toThrow('not that')
      await (await others.acquire(name)).release()
    })

    it.runIf(isConcurrent)('waits for its turn behind others', async () => {
      const { locks, others, connected } = subject
      const name = freshName()
      const first = await others.acquire(name)
      const writer = others.acquire(name)
      await untilWaiting(others, name)
      const reading = openTransaction(connected, (tx) => locks.within(tx).acquire(name, SHARED))
      await untilWaiting(others, name, 2)
      await first.release()
      const second = await writer
      await untilWaiting(others, name, 1)
      await second.release()
      const commit = await reading
      expect(await isTaken(name)).toBe(true)
      await commit()
      await (await others.acquire(name)).release()
    })

    it.runIf(isConcurrent)('ends its wait in time, and leaves the transaction usable', async () => {
      const { locks, others, connected } = subject
      const name = freshName()
      const lease = await others.acquire(name)
      await connected.transaction(async (tx) => {
        const within = locks.within(tx)
        await expect(within.acquire(name, { ...SHARED, wait: '50ms' })).rejects.toThrow(LockTimeoutError)
        expect(await within.tryAcquire(name, SHARED)).toBeNull()
        await lease.release()
        expect(await within.tryAcquire(name, SHARED)).toMatchObject({ name })
      })
      await (await others.acquire(name)).release()
    })

    it('has no lock alone that others share, nor a semaphore, among several', async () => {
      const { locks, others, connected } = subject
      const names = [freshName(), freshName(), freshName()]
      const semaphore = freshName()
      await others.semaphore(semaphore, { permits: 1 }).available()
      const beside = await others.acquire(names[1]!, SHARED)
      const within = (wanted: string[]) =>
        connected.transaction((tx) => locks.within(tx).acquireAll(wanted, { wait: '50ms' }))
      await expect(within(names)).rejects.toMatchObject({ code: 'LOCK_TIMEOUT' })
      await expect(within([names[0]!, semaphore])).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
      await beside.release()
    })

    it.runIf(isConcurrent)('shares several', async () => {
      const { locks, others, connected } = subject
      const names = [freshName(), freshName()]
      const beside = await others.acquire(names[0]!, SHARED)
      const commit = await openTransaction(connected, (tx) => locks.within(tx).acquireAll(names, SHARED))
      expect(await isTaken(names[1]!)).toBe(true)
      expect(await isTaken(names[1]!, SHARED)).toBe(false)
      await commit()
      await (await others.acquire(names[1]!)).release()
      await beside.release()
    })

    it.runIf(isConcurrent)('is the hold that the transaction has exclusively', async () => {
      const { locks, others, connected } = subject
      const name = freshName()
      await connected.transaction(async (tx) => {
        const within = locks.within(tx)
        const { token } = await within.acquire(name)
        expect(await within.acquire(name, SHARED)).toEqual({ name, token })
        expect(await within.tryAcquire(name, SHARED)).toEqual({ name, token })
      })
      await (await others.acquire(name)).release()
    })
  })
}

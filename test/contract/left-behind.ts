import { expect, it } from 'vitest'
import { freshName } from '../engines.ts'
import { eventually, type Subject, settled, untilWaiting } from './harness.ts'

const LARGE = 'x'.repeat(65_000)

/** What a holder leaves to the next one, and what it says of itself. */
export function leftBehindSuite(subject: Subject): void {
  const { engine } = subject
  const isConcurrent = engine.shared && engine.engine !== 'sqlite'

  it('a checkpoint is the payload of those who hold the lock next', async () => {
    const { locks, others } = subject
    const name = freshName()
    const first = await locks.acquire(name)
    expect(first.payload).toBeNull()
    for (const value of [{ cursor: 41 }, { cursor: 42, rest: LARGE }]) await first.checkpoint(value)
    expect(first.payload).toBeNull()
    await first.release()
    for (const each of [others, locks]) {
      const next = await each.acquire(name)
      expect(next.payload).toEqual({ cursor: 42, rest: LARGE })
      await next.release()
    }
    const last = await locks.acquire(name)
    await last.checkpoint(undefined)
    await last.release()
    const after = await others.acquire(name)
    expect(after.payload).toBeNull()
    await after.release()
  })

  it('a checkpoint is the payload of who was handed the lock, took it over, or evicted its holder', async () => {
    const { locks, others } = subject
    const [handed, left, forced] = [freshName(), freshName(), freshName()]
    const holder = await locks.acquire(handed)
    const waiting = others.acquire(handed)
    await untilWaiting(locks, handed)
    await holder.checkpoint('handed')
    await holder.release()
    const next = await waiting
    expect(next.payload).toBe('handed')
    await next.release()

    const gone = await locks.acquire(left, { ttl: '1s', renew: false })
    await gone.checkpoint('left')
    const successor = await others.acquire(left)
    expect(successor.payload).toBe('left')
    await successor.release()

    const evicted = await locks.acquire(forced)
    await evicted.checkpoint('forced')
    await others.forceRelease(forced)
    const heir = await others.acquire(forced)
    expect(heir.payload).toBe('forced')
    await expect(evicted.checkpoint('too late')).rejects.toMatchObject({ code: 'LOCK_LOST' })
    await heir.release()
    const final = await locks.acquire(forced)
    expect(final.payload).toBe('forced')
    await final.release()
  })

  it('of several locks each has its own, and a lease of another process what was left last', async () => {
    const { locks, others } = subject
    const name = freshName()
    const names = [`${name}:a`, `${name}:b`, `${name}:c`]
    const leases = await locks.acquireAll(names)
    await leases.leases[0]!.checkpoint('a')
    await leases.leases[2]!.checkpoint(['c'])
    const restored = await others.restore(leases.leases[2]!.toJSON())
    expect(restored.payload).toEqual(['c'])
    await leases.release()
    const next = await others.acquireAll(names)
    expect(next.leases.map(({ payload }) => payload)).toEqual(['a', null, ['c']])
    await next.release()
    const single = await Promise.all(names.map((each) => locks.acquire(each)))
    expect(single.map(({ payload }) => payload)).toEqual(['a', null, ['c']])
    await Promise.all(single.map((lease) => lease.release()))
  })

  it('a checkpoint in a transaction is left with its commit, and not by one that is undone', async () => {
    const { locks, others, connected } = subject
    const name = freshName()
    const lease = await locks.acquire(name)
    const undone = connected.transaction(async (tx) => {
      await lease.checkpoint('undone', tx)
      throw new Error('undo')
    })
    await expect(undone).rejects.toThrow('undo')
    await connected.transaction(async (tx) => lease.checkpoint({ committed: 1 }, tx))
    await lease.release()
    const next = await others.acquire(name)
    expect(next.payload).toEqual({ committed: 1 })
    await next.release()
    const failed = await connected.transaction(async (tx) => settled(lease.checkpoint('too late', tx)))
    expect(failed).toMatchObject({ status: 'rejected', reason: { code: 'LOCK_LOST' } })
  })

  it('a checkpoint goes with the row of its lock', async () => {
    const { locks, others } = subject
    const name = freshName()
    const lease = await locks.acquire(name)
    await lease.checkpoint('old')
    await others.purge({ idleFor: 0 })
    await lease.release()
    await eventually(async () => {
      await others.purge({ idleFor: 0 })
      const next = await others.acquire(name)
      await next.release()
      expect(next.payload).toBeNull()
    })
  })

  it('only what JSON carries is left, and only by who holds the lock alone', async () => {
    const { locks } = subject
    const name = freshName()
    const lease = await locks.acquire(name)
    for (const value of [1n, () => 1, Number.NaN, new Map(), 'x'.repeat(65_536)]) {
      await expect(lease.checkpoint(value)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
    }
    expect(lease.isHeld()).toBe(true)
    await lease.release()
    await expect(lease.checkpoint(1)).rejects.toMatchObject({ code: 'LOCK_LOST' })
    const shared = await locks.acquire(name, { mode: 'shared' })
    await expect(shared.checkpoint(1)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
    expect(shared.payload).toBeNull()
    await shared.release()
  })

  it.runIf(isConcurrent)('waits with a checkpoint while a transaction that the lease guards is open', async () => {
    const { locks, others, connected } = subject
    const name = freshName()
    const lease = await locks.acquire(name)
    let writing: Promise<void> | undefined
    await connected.transaction(async (tx) => {
      await lease.guard(tx)
      writing = lease.checkpoint('beside')
      writing.catch(() => undefined)
    })
    await writing
    await lease.release()
    const next = await others.acquire(name)
    expect(next.payload).toBe('beside')
    await next.release()
  })

  it('metadata is shown of those who hold a lock, and goes with them', async () => {
    const { locks, others } = subject
    const name = freshName()
    const before = Date.now()
    const lease = await locks.acquire(name, { metadata: { job: 42, text: 'né 🔒' } })
    const [holder] = (await others.inspect(name))!.holders
    expect(holder).toMatchObject({ owner: lease.owner, metadata: { job: 42, text: 'né 🔒' } })
    expect(Math.abs(holder!.acquiredAt.getTime() - before)).toBeLessThan(60_000)
    const [listed] = await others.list({ prefix: name })
    expect(listed!.holders[0]!.metadata).toEqual({ job: 42, text: 'né 🔒' })
    await lease.release()
    const without = await others.acquire(name)
    expect((await locks.inspect(name))!.holders[0]!.metadata).toBeUndefined()
    await without.release()
    const sharing = await Promise.all([1, 2, 3].map((nth) => locks.acquire(name, { mode: 'shared', metadata: nth })))
    expect((await others.inspect(name))!.holders.map(({ metadata }) => metadata).sort()).toEqual([1, 2, 3])
    await Promise.all(sharing.map((each) => each.release()))
    for (const metadata of [1n, 'x'.repeat(4095)]) {
      await expect(locks.acquire(name, { metadata })).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
    }
    expect(await locks.inspect(name)).toBeNull()
  })

  it('metadata of permits, and of a run, is shown, too', async () => {
    const { locks, others } = subject
    const [name, permits] = [freshName(), freshName()]
    await locks.run(name, { metadata: 'run' }, async () => {
      expect((await others.inspect(name))!.holders[0]!.metadata).toBe('run')
    })
    const semaphore = locks.semaphore(permits, { permits: 2 })
    await semaphore.run({ metadata: ['permit'] }, async () => {
      expect((await others.inspect(permits))!.holders[0]!.metadata).toEqual(['permit'])
    })
  })
}

import { expect, it } from 'vitest'
import { createLocks, DeadlockError, LockLostError } from '../../src/index.ts'
import { freshName } from '../engines.ts'
import { DEFAULTS, eventually, type Subject, settled, tap, untilFree, untilWaiting } from './harness.ts'

export function reentrySuite(subject: Subject): void {
  it('refuses to wait, in a run, for the lock of that run', async () => {
    const { locks, connected } = subject
    const name = freshName()
    const body = () => expect.unreachable('the body must not run')
    await locks.run(name, {}, async (lease) => {
      const waits = {
        run: () => locks.run(name, {}, body),
        acquire: () => locks.acquire(name, { wait: Number.POSITIVE_INFINITY }),
        'acquire within': () => connected.transaction((tx) => locks.within(tx).acquire(name)),
        'lease within': () => connected.transaction((tx) => locks.within(tx).lease(name)),
      }
      for (const [verb, wait] of Object.entries(waits)) {
        const outcome = await settled<unknown>(wait())
        expect(outcome, verb).toMatchObject({ status: 'rejected', reason: { code: 'DEADLOCK', lock: name } })
        expect((outcome as PromiseRejectedResult).reason, verb).toBeInstanceOf(DeadlockError)
      }
      expect(lease.isHeld()).toBe(true)
    })
    expect(await locks.inspect(name)).toBeNull()
  })

  it.skipIf(subject.engine.engine === 'memory')('does so without asking the database', async () => {
    const tapped = tap(subject.connected.adapter)
    const locks = createLocks(tapped.adapter, DEFAULTS)
    const name = freshName()
    await locks.run(name, {}, async (lease) => {
      const sent = tapped.statements.length
      await expect(locks.acquire(name)).rejects.toMatchObject({ code: 'DEADLOCK' })
      await expect(locks.acquire(name, { holding: [lease] })).rejects.toMatchObject({ code: 'DEADLOCK' })
      await locks.run(name, { reenter: true }, () => undefined)
      expect(tapped.statements.length).toBe(sent)
    })
    await locks.close()
  })

  it('tells who does not wait that the lock is held, as it tells everybody', async () => {
    const { locks, connected } = subject
    const name = freshName()
    const body = () => expect.unreachable('the body must not run')
    await locks.run(name, {}, async (lease) => {
      expect(await locks.tryAcquire(name)).toBeNull()
      expect(await locks.tryAcquire(name, { holding: [lease] })).toBeNull()
      expect(await locks.tryRun(name, {}, body)).toEqual({ ran: false })
      await expect(locks.acquire(name, { wait: 0 })).rejects.toMatchObject({ code: 'LOCK_TIMEOUT' })
      await expect(locks.run(name, { wait: 0 }, body)).rejects.toMatchObject({ code: 'LOCK_TIMEOUT' })
      expect(await connected.transaction((tx) => locks.within(tx).tryAcquire(name))).toBeNull()
    })
  })

  it('re-enters the hold of a run, and frees it once the outermost has ended', async () => {
    const { locks, others } = subject
    const name = freshName()
    const value = await locks.run(name, {}, async (outer) => {
      const inner = await locks.run(name, { reenter: true }, async (lease) => {
        expect(await locks.tryRun(name, { reenter: true }, ({ token }) => token)).toEqual({
          ran: true,
          value: outer.token,
        })
        return lease
      })
      expect(inner).toBe(outer)
      expect(outer.isHeld()).toBe(true)
      expect(await others.inspect(name)).toMatchObject({ owner: outer.owner, token: outer.token })
      return 'done'
    })
    expect(value).toBe('done')
    await (await others.acquire(name, { wait: 0 })).release()
  })

  it('takes the lock where there is no run to re-enter', async () => {
    const { locks, others } = subject
    const name = freshName()
    await locks.run(name, { reenter: true }, async (lease) => {
      expect(await others.inspect(name)).toMatchObject({ token: lease.token })
      await locks.run(name, { reenter: true }, ({ token }) => expect(token).toBe(lease.token))
    })
    const lease = await others.acquire(name)
    expect(await locks.tryRun(name, { reenter: true }, () => undefined)).toEqual({ ran: false })
    await lease.release()
  })

  it('holds the lock until the last branch has ended, in whatever order branches and the outermost body end', async () => {
    const { locks, others } = subject
    const ends = ['outer', 'first', 'second'] as const
    const orders = ends.flatMap((one) => ends.filter((two) => two !== one).map((two) => [one, two]))
    for (const order of orders) {
      const name = freshName()
      const gates = Object.fromEntries(ends.map((end) => [end, gateway()]))
      const branches: Promise<unknown>[] = []
      const entered: string[] = []
      const outer = locks.run(name, {}, async () => {
        for (const branch of ['first', 'second']) {
          const body = () => {
            entered.push(branch)
            return gates[branch]!.passed
          }
          branches.push(locks.run(name, { reenter: true }, body))
        }
        await gates.outer!.passed
      })
      await eventually(() => expect(entered).toHaveLength(2))
      const runs = { outer, first: branches[0]!, second: branches[1]! }
      for (const end of order) {
        gates[end]!.open()
        await runs[end as keyof typeof runs]
        expect(await others.tryAcquire(name), `after ${end} of ${order}`).toBeNull()
      }
      for (const gate of Object.values(gates)) gate.open()
      await Promise.all(Object.values(runs))
      await (await others.acquire(name, { wait: 0 })).release()
    }
  })

  it('goes on holding the lock for a branch whose sibling has failed', async () => {
    const { locks, others } = subject
    const name = freshName()
    const gate = gateway()
    const failure = new Error('one branch failed')
    let branch: Promise<boolean> | undefined
    const outer = locks.run(name, {}, () => {
      branch = locks.run(name, { reenter: true }, async (lease) => {
        await gate.passed
        return lease.isHeld()
      })
      return Promise.all([branch, locks.run(name, { reenter: true }, () => Promise.reject(failure))])
    })
    await expect(outer).rejects.toBe(failure)
    expect(await others.tryAcquire(name)).toBeNull()
    gate.open()
    expect(await branch).toBe(true)
    await untilFree(others, name)
  })

  it('does not re-enter a hold that was lost, nor replaces it', async () => {
    const { locks, others } = subject
    const name = freshName()
    const outcome = await settled(
      locks.run(name, {}, async (lease) => {
        await others.forceRelease(name)
        await expect(lease.extend('40s')).rejects.toBeInstanceOf(LockLostError)
        await expect(locks.run(name, { reenter: true }, () => expect.unreachable())).rejects.toMatchObject({
          code: 'LOCK_LOST',
          lock: name,
          cause: lease.signal.reason,
        })
        // Which waits for nobody, and is another hold.
        return locks.run(name, {}, (next) =>
          locks.run(name, { reenter: true }, (same) => same === next && next.token > lease.token),
        )
      }),
    )
    expect(outcome).toMatchObject({ status: 'rejected', reason: { code: 'LOCK_LOST', result: true } })
  })

  it('tells every body that shared a hold that it was lost', async () => {
    const { locks, others } = subject
    const name = freshName()
    let inner: PromiseSettledResult<unknown> | undefined
    const outer = await settled(
      locks.run(name, {}, async () => {
        inner = await settled(
          locks.run(name, { reenter: true }, async (lease) => {
            await others.forceRelease(name)
            await expect(lease.extend('40s')).rejects.toBeInstanceOf(LockLostError)
            return 'inner'
          }),
        )
        return 'outer'
      }),
    )
    expect(inner).toMatchObject({ status: 'rejected', reason: { code: 'LOCK_LOST', result: 'inner' } })
    expect(outer).toMatchObject({ status: 'rejected', reason: { code: 'LOCK_LOST', result: 'outer' } })
  })

  it('lets no body release what others share, and the last one release it', async () => {
    const { locks, others, connected } = subject
    const name = freshName()
    await locks.run(name, {}, async (lease) => {
      await locks.run(name, { reenter: true }, async () => {
        await expect(lease.release()).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
        const released = connected.transaction((tx) => lease.release(tx))
        await expect(released).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
        expect(lease.isHeld()).toBe(true)
      })
      expect(await lease.release()).toBe(true)
      await (await others.acquire(name, { wait: 0 })).release()
      // Nothing is left to re-enter or to wait for.
      await locks.run(name, { reenter: true }, ({ token }) => expect(token).toBeGreaterThan(lease.token))
      await locks.run(name, {}, ({ token }) => expect(token).toBeGreaterThan(lease.token))
    })
  })

  it('does not re-enter from what outlives the run, but waits its turn', async () => {
    const { locks, others } = subject
    const name = freshName()
    const gate = gateway()
    let late: Promise<bigint> | undefined
    const token = await locks.run(name, {}, (lease) => {
      late = gate.passed.then(() => locks.run(name, { reenter: true }, (again) => again.token))
      return lease.token
    })
    const between = await others.acquire(name, { wait: 0 })
    gate.open()
    await untilWaiting(others, name)
    expect(between.token).toBeGreaterThan(token)
    await between.release()
    expect(await late).toBeGreaterThan(between.token)
  })

  it('tells names, and instances, apart', async () => {
    const { locks, others } = subject
    const [one, two] = [freshName(), freshName()]
    await locks.run(one, {}, (outer) =>
      locks.run(two, { reenter: true }, async (inner) => {
        expect(inner).not.toBe(outer)
        await locks.run(one, { reenter: true }, ({ token }) => expect(token).toBe(outer.token))
        await expect(locks.run(one, {}, () => expect.unreachable())).rejects.toMatchObject({ code: 'DEADLOCK' })
        await expect(locks.run(two, {}, () => expect.unreachable())).rejects.toMatchObject({ code: 'DEADLOCK' })
        await expect(others.run(one, { wait: 50 }, () => expect.unreachable())).rejects.toMatchObject({
          code: 'LOCK_TIMEOUT',
        })
        expect(await others.tryRun(one, { reenter: true }, () => undefined)).toEqual({ ran: false })
      }),
    )
  })

  it('refuses to wait for what a lease in `holding` has, while it has it', async () => {
    const { locks, others, connected } = subject
    const [name, another] = [freshName(), freshName()]
    const lease = await locks.acquire(name)
    const holding = [lease]
    const waits = {
      acquire: () => locks.acquire(name, { holding }),
      run: () => locks.run(name, { holding }, () => expect.unreachable()),
      within: () => connected.transaction((tx) => locks.within(tx).acquire(name, { holding })),
    }
    for (const [verb, wait] of Object.entries(waits)) {
      expect(await settled<unknown>(wait()), verb).toMatchObject({ reason: { code: 'DEADLOCK', lock: name } })
    }
    const other = await locks.acquire(another, { holding })
    // Of another instance it is another lock, as far as this one can know.
    await expect(others.acquire(name, { wait: 50, holding })).rejects.toMatchObject({ code: 'LOCK_TIMEOUT' })
    await lease.release()
    const again = await locks.acquire(name, { holding })
    expect(again.token).toBeGreaterThan(lease.token)
    await Promise.all([again.release(), other.release()])
  })

  it('closes although bodies share a lease, and tells them', async () => {
    const { database, others } = subject
    const locks = await database.locks(DEFAULTS)
    const name = freshName()
    const running = locks.run(name, {}, () =>
      locks.run(name, { reenter: true }, async (lease) => {
        await locks.close()
        return lease.signal.aborted
      }),
    )
    await expect(running).rejects.toMatchObject({ code: 'LOCK_LOST' })
    await (await others.acquire(name, { wait: 0 })).release()
  })

  it('does not let one body share the lock of the others', async () => {
    const { locks, others } = subject
    const name = freshName()
    await locks.run(name, {}, async (lease) => {
      await locks.run(name, { reenter: true }, async (same) => {
        await expect(same.downgrade()).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' })
        expect(await others.tryAcquire(name, { mode: 'shared' })).toBeNull()
      })
      await lease.downgrade()
      expect(lease.mode).toBe('shared')
    })
  })

  it('guards a transaction of a body by the lease that it shares', async () => {
    const { locks, connected } = subject
    const name = freshName()
    await locks.run(name, {}, () =>
      locks.run(name, { reenter: true }, async (lease) => {
        await connected.transaction(async (tx) => {
          await lease.guard(tx)
        })
        expect(lease.isHeld()).toBe(true)
      }),
    )
  })
}

/** What is waited for until it is opened. */
function gateway(): { readonly passed: Promise<void>; open(): void } {
  let open!: () => void
  const passed = new Promise<void>((resolve) => {
    open = resolve
  })
  return { passed, open }
}

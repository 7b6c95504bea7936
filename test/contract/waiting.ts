import { expect, it } from 'vitest'
import { createLocks, type Lease } from '../../src/index.ts'
import { freshName } from '../engines.ts'
import { connectionReset, DEFAULTS, eventually, type Subject, settled, sleep, tap, untilWaiting } from './harness.ts'

const WAITERS = 40
/** Two looks at the database are at least 6 ms apart; timers may be a little early. */
const SHORTEST_PAUSE_MS = 5

export function waitingSuite(subject: Subject): void {
  const withoutSql = subject.engine.engine === 'memory'

  it('serves every waiter of one name, one at a time, with rising tokens', async () => {
    const { locks, others } = subject
    const name = freshName()
    const first = await locks.acquire(name)
    const tokens = [first.token]
    let held = 0
    const use = async (acquiring: Promise<Lease<unknown>>) => {
      const lease = await acquiring
      expect(++held).toBe(1)
      tokens.push(lease.token)
      await sleep(1)
      held--
      expect(await lease.release()).toBe(true)
    }
    const served = Array.from({ length: WAITERS }, (_, index) => use((index % 4 === 0 ? others : locks).acquire(name)))
    await untilWaiting(locks, name, WAITERS)
    await first.release()
    await Promise.all(served)
    expect(tokens).toHaveLength(WAITERS + 1)
    expect(tokens).toEqual([...tokens].sort((a, b) => Number(a - b)))
    expect(new Set(tokens).size).toBe(WAITERS + 1)
    expect(await locks.inspect(name)).toBeNull()
  })

  it('serves the waiters of one process in the order of their calls', async () => {
    const { locks } = subject
    const name = freshName()
    const first = await locks.acquire(name)
    const order: number[] = []
    const served: Promise<void>[] = []
    for (let index = 0; index < 10; index++) {
      const acquiring = locks.acquire(name)
      served.push(
        acquiring.then(async (lease) => {
          order.push(index)
          await lease.release()
        }),
      )
      await untilWaiting(locks, name, index + 1)
    }
    await first.release()
    await Promise.all(served)
    expect(order).toEqual([0, 1, 2, 3, 4, 5, 6, 7, 8, 9])
  })

  it('serves the waiters of many names', async () => {
    const { locks, others } = subject
    const names = Array.from({ length: 20 }, freshName)
    const held = await Promise.all(names.map((name) => others.acquire(name)))
    const waiting = names.map((name) => locks.acquire(name))
    await untilWaiting(locks, names.at(-1)!)
    await Promise.all(held.map((lease) => lease.release()))
    const leases = await Promise.all(waiting)
    expect(leases.map(({ name }) => name)).toEqual(names)
    await Promise.all(leases.map((lease) => lease.release()))
  })

  it('serves the next waiter when the one before gives up', async () => {
    const { locks, others } = subject
    const name = freshName()
    const first = await others.acquire(name)
    const controller = new AbortController()
    const givingUp = settled(locks.acquire(name, { signal: controller.signal }))
    await untilWaiting(locks, name)
    const timingOut = settled(locks.acquire(name, { wait: '200ms' }))
    const patient = locks.acquire(name)
    await untilWaiting(locks, name, 3)
    controller.abort()
    expect((await givingUp).status).toBe('rejected')
    expect((await timingOut).status).toBe('rejected')
    await first.release()
    await (await patient).release()
  })

  it('gets a lock whose holder is gone, when its lease runs out', async () => {
    const { locks, others } = subject
    const name = freshName()
    await others.acquire(name, { ttl: '400ms', renew: false })
    const leases = await Promise.all([1, 2, 3].map(() => locks.acquire(name).then((lease) => lease.release())))
    expect(leases).toEqual([true, true, true])
  })

  it.skipIf(withoutSql)('asks in one statement for all waiters of the process', async () => {
    const { connected, others } = subject
    const tapped = tap(connected.adapter)
    const locks = createLocks(tapped.adapter, DEFAULTS)
    const names = [freshName(), freshName(), freshName()]
    const held = await Promise.all(names.map((name) => others.acquire(name)))
    const waiting = Array.from({ length: WAITERS }, (_, index) => locks.acquire(names[index % names.length]!))
    const [one, two, three] = names
    await untilWaiting(locks, one!, 14)
    await untilWaiting(locks, two!, 13)
    await untilWaiting(locks, three!, 13)
    const sentBefore = tapped.statements.length
    const since = performance.now()
    await eventually(() => expect(tapped.statements.length).toBeGreaterThanOrEqual(sentBefore + 3))
    const asked = tapped.statements.slice(sentBefore)
    expect(asked.length).toBeLessThanOrEqual((performance.now() - since) / SHORTEST_PAUSE_MS + 1)

    const attemptsBefore = tapped.statements.length
    const served = waiting.map((acquiring) => acquiring.then((lease) => lease.release()))
    await Promise.all(held.map((lease) => lease.release()))
    expect(await Promise.all(served)).toEqual(Array.from({ length: WAITERS }, () => true))
    // An attempt and a release each, which some engines need up to two statements for, and a few looks.
    expect(tapped.statements.length - attemptsBefore).toBeLessThan(WAITERS * 8)
    await locks.close()
  })

  it.skipIf(withoutSql)('goes on waiting while the database cannot be asked, and is served then', async () => {
    const { connected, others } = subject
    const tapped = tap(connected.adapter)
    const locks = createLocks(tapped.adapter, DEFAULTS)
    const name = freshName()
    const first = await others.acquire(name)
    const waiting = locks.acquire(name)
    await untilWaiting(locks, name)
    let failed = 0
    tapped.intercept = async () => {
      failed++
      throw subject.engine.engine === 'sqlite' ? busy() : connectionReset()
    }
    await eventually(() => expect(failed).toBeGreaterThan(5))
    await first.release()
    tapped.intercept = null
    await (await waiting).release()
    await locks.close()
  })
}

/** As better-sqlite3 says it. */
function busy(): Error {
  return Object.assign(new Error('database is locked'), { code: 'SQLITE_BUSY' })
}

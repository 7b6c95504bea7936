import { beforeAll, expect, it } from 'vitest'
import { DeadlockError, type Lease, type Locks, type RunOptions } from '../../src/index.ts'
import { freshName } from '../engines.ts'
import { DEFAULTS, eventually, type Subject, settled, sleep } from './harness.ts'

const SHARED = { mode: 'shared' } as const

export function circlesSuite(subject: Subject): void {
  const { engine } = subject
  /** Whether a lease can be had beside an open transaction. */
  const isConcurrent = engine.shared && engine.engine !== 'sqlite'
  const instances: Locks<unknown>[] = []

  beforeAll(async () => {
    instances.push(subject.locks, subject.others)
    while (instances.length < 10) {
      instances.push(await subject.database.locks({ ...DEFAULTS, holder: `holder ${instances.length}` }))
    }
  })

  /** Takes one lock, and, when all others have theirs, waits for the other one; released after that. */
  function crossing(count: number) {
    let arrive!: () => void
    const all = new Promise<void>((resolve) => {
      arrive = resolve
    })
    let arrived = 0
    return {
      async run(locks: Locks<unknown>, [first, second]: readonly [string, string], modes: readonly RunOptions[] = []) {
        return locks.run(first, modes[0] ?? {}, async () => {
          if (++arrived === count) arrive()
          await all
          await locks.run(second, modes[1] ?? {}, () => undefined)
          return second
        })
      },
    }
  }

  /** Exactly one was refused, and the others got all that they wanted. */
  function expectOneVictim(outcomes: readonly PromiseSettledResult<unknown>[]): DeadlockError {
    const refused = outcomes.filter((outcome) => outcome.status === 'rejected').map(({ reason }) => reason)
    expect(refused).toHaveLength(1)
    expect(refused[0]).toBeInstanceOf(DeadlockError)
    expect(refused[0]).toMatchObject({ code: 'DEADLOCK' })
    return refused[0]
  }

  it.each([2, 3, 10])('of %i who wait for each other, one is refused, and told of the circle', async (count) => {
    const prefix = freshName()
    const names = Array.from({ length: count }, (_, index) => `${prefix}:${index}`)
    const { run } = crossing(count)
    const outcomes = await Promise.all(
      names.map((name, index) => settled(run(instances[index]!, [name, names[(index + 1) % count]!]))),
    )
    const { circle, lock, message } = expectOneVictim(outcomes)
    expect(circle).toHaveLength(count)
    const steps = names.map((name, index) => `${name} -> ${names[(index + 1) % count]}`)
    expect(circle.map((each) => each.slice(each.lastIndexOf(': ', each.indexOf(prefix)) + 2)).sort()).toEqual(
      steps.sort(),
    )
    expect(circle[0]!.endsWith(` -> ${lock}`)).toBe(true)
    for (const each of circle) expect(message).toContain(each)
  })

  it('the youngest is refused', async () => {
    const [a, b] = [freshName(), freshName()]
    const first = await instances[0]!.acquire(a)
    const second = await instances[1]!.acquire(b)
    const older = settled(instances[0]!.acquire(b, { holding: [first] }))
    await eventually(async () => expect((await instances[2]!.inspect(b))?.waiters).toBe(1))
    // By more than the clocks of two processes are apart: each knows the database's by one question.
    await sleep(2000)
    const younger = settled(instances[1]!.acquire(a, { holding: [second] }))
    expect(await younger).toMatchObject({ status: 'rejected', reason: { code: 'DEADLOCK', lock: a } })
    expect(second.isHeld()).toBe(true)
    await second.release()
    const outcome = (await older) as PromiseFulfilledResult<Lease<unknown>>
    expect(outcome.status).toBe('fulfilled')
    await outcome.value.release()
    await first.release()
    expect(await instances[2]!.inspect(a)).toBeNull()
  })

  it('who shares a lock and who wants it alone can wait for each other', async () => {
    const [a, b] = [freshName(), freshName()]
    const { run } = crossing(2)
    const outcomes = await Promise.all([
      settled(run(instances[0]!, [a, b], [SHARED])),
      settled(run(instances[1]!, [b, a])),
    ])
    expectOneVictim(outcomes)
  })

  it('a reader waits for those before it in the queue', async () => {
    const [a, b] = [freshName(), freshName()]
    const reader = await instances[0]!.acquire(a, SHARED)
    const other = await instances[1]!.acquire(b)
    // Holds nothing, and is in the circle all the same.
    const writer = instances[2]!.acquire(a).then((lease) => lease.release())
    await eventually(async () => expect((await instances[3]!.inspect(a))?.waiters).toBe(1))
    const outcomes = await Promise.all([
      settled(instances[0]!.acquire(b, { holding: [reader] })).then(async (outcome) => {
        await reader.release()
        return outcome
      }),
      settled(instances[1]!.acquire(a, { ...SHARED, holding: [other] })).then(async (outcome) => {
        await other.release()
        return outcome
      }),
    ])
    expectOneVictim(outcomes)
    for (const outcome of outcomes) if (outcome.status === 'fulfilled') await outcome.value.release()
    expect(await writer).toBe(true)
  })

  it('permits are waited for in a circle if those who have them leave too few', async () => {
    const [name, b] = [freshName(), freshName()]
    const permits = { permits: 5 }
    const other = await instances[1]!.acquire(b)
    await instances[0]!.semaphore(name, permits).run({ weight: 3 }, async () => {
      const waiting = settled(instances[0]!.acquire(b))
      // There is room for these.
      await (await instances[1]!.semaphore(name, permits).acquire({ weight: 2, holding: [other] })).release()
      const asking = settled(instances[1]!.semaphore(name, permits).acquire({ weight: 3, holding: [other] }))
      const refused = await Promise.race([waiting, asking])
      expect(refused).toMatchObject({ status: 'rejected', reason: { code: 'DEADLOCK' } })
      await other.release()
      const lease = await waiting
      if (lease.status === 'fulfilled') await lease.value.release()
      void asking.then((outcome) => outcome.status === 'fulfilled' && outcome.value.release())
    })
  })

  it.runIf(isConcurrent)('a transaction that waits for a lease can be in a circle', async () => {
    const { connected } = subject
    const [a, b] = [freshName(), freshName()]
    const lease = await instances[1]!.acquire(a)
    const inTransaction = settled(
      connected.transaction(async (tx) => {
        await instances[0]!.within(tx).acquire(b)
        await instances[0]!.within(tx).acquire(a)
      }),
    )
    await eventually(async () => expect((await instances[2]!.inspect(a))?.waiters).toBe(1))
    const waiting = settled(instances[1]!.acquire(b, { holding: [lease] }))
    const refused = await Promise.race([waiting, inTransaction])
    expect(refused).toMatchObject({ status: 'rejected', reason: { code: 'DEADLOCK' } })
    await lease.release()
    const outcomes = await Promise.all([waiting, inTransaction])
    expectOneVictim(outcomes)
    if (outcomes[0].status === 'fulfilled') await outcomes[0].value.release()
  })

  it('who waits for several holds those before', async () => {
    const prefix = freshName()
    const [a, b] = [`${prefix}:a`, `${prefix}:b`]
    const other = await instances[1]!.acquire(b)
    const all = settled(instances[0]!.acquireAll([a, b]))
    await eventually(async () => expect((await instances[2]!.inspect(b))?.waiters).toBe(1))
    const one = settled(instances[1]!.acquire(a, { holding: [other] }))
    expect(await one).toMatchObject({ status: 'rejected', reason: { code: 'DEADLOCK' } })
    await other.release()
    const outcome = await all
    expect(outcome.status).toBe('fulfilled')
    if (outcome.status === 'fulfilled') await outcome.value.release()
  })

  it('who waits for somebody that comes on is let alone', async () => {
    const [a, b, c] = [freshName(), freshName(), freshName()]
    const holder = await instances[0]!.acquire(c)
    const outcomes = [
      settled(instances[1]!.run(a, {}, () => instances[1]!.run(b, {}, () => 'one'))),
      settled(instances[2]!.run(b, {}, () => instances[2]!.run(c, {}, () => 'two'))),
    ]
    // For much longer than a circle needs to be found.
    await new Promise((resolve) => setTimeout(resolve, 1500))
    await holder.release()
    expect((await Promise.all(outcomes)).map(({ status }) => status)).toEqual(['fulfilled', 'fulfilled'])
  })
}

import { setTimeout as sleep } from 'node:timers/promises'
import { expect, it, vi } from 'vitest'
import { isTransactionAborted, type Lease } from '../../src/index.ts'
import { freshName } from '../engines.ts'
import { startContest, violations } from '../race/contest.ts'
import { type Application, untilSeen } from './application.ts'

export type Three = readonly [Application, Application, Application]

/** Takeovers while a guarded transaction is open. */
const ROUNDS = 10
/** Enough for a commit to be on its way. */
const HEAD_START_MS = 200

/**
 * For clusters of which all nodes take writes. `applications` has one for each of three nodes. `stall` keeps the node of the
 * first one from learning what others commit, until what it resolves with is called.
 */
export function testManyWriters(
  applications: () => Three,
  stall: (nodes: Three) => Promise<() => Promise<void>>,
): void {
  it('clients on different nodes never hold one lock at once, and its token rises with each grant', async () => {
    const name = freshName()
    const contests = applications().map(({ locks }) => startContest(locks, name, 5))
    const reports = async () => Promise.all(contests.map((contest) => contest.report()))
    try {
      await vi.waitUntil(
        async () => {
          const all = await reports()
          const sum = (count: (report: (typeof all)[number]) => number) => all.reduce((n, each) => n + count(each), 0)
          return (
            all.every(({ tokens }) => tokens.length > 10) &&
            sum(({ takeovers }) => takeovers) > 0 &&
            sum(({ evictions }) => evictions.length) > 0
          )
        },
        { timeout: 40_000, interval: 100 },
      )
    } finally {
      await Promise.allSettled(contests.map((contest) => contest.stop()))
    }
    const all = await reports()
    expect(violations(all)).toEqual([])
    const tokens = all.flatMap((report) => report.tokens)
    expect(new Set(tokens).size).toBe(tokens.length)
  })

  it('of those who ask at once on all nodes for a lock that never was, one gets it', async () => {
    for (let round = 0; round < 20; round++) {
      const name = freshName()
      const attempts = await Promise.all(applications().map(({ locks }) => locks.tryAcquire(name)))
      const leases = attempts.filter((lease) => lease !== null)
      expect(leases).toHaveLength(1)
      await leases[0]?.release()
    }
  })

  it('a lease is renewed, guarded and released on another node than it was taken on', async () => {
    const [here, there] = applications()
    await here.sql('create table if not exists moved (id int primary key)')
    const lease = await here.locks.acquire(freshName())
    await untilSeen(there, lease.name)
    const moved = await there.locks.restore(JSON.parse(JSON.stringify(lease)))
    expect(moved.token).toBe(lease.token)
    await moved.extend('2m')
    await there.transaction(async (tx) => {
      await moved.guard(tx)
      await there.sql('replace into moved values (1)', tx)
    })
    expect(await here.locks.tryAcquire(lease.name)).toBe(null)
    expect(await moved.release()).toBe(true)
    const next = await here.locks.acquire(lease.name)
    expect(next.token).toBeGreaterThan(lease.token)
  })

  it('no guarded transaction commits after a takeover on another node, but with a locking read some do', async () => {
    const [holder, taker] = applications()
    await holder.sql('create table ledger (token bigint primary key)')

    const race = async (guard: (lease: Lease<unknown>, tx: unknown) => Promise<unknown>) => {
      const lease = await holder.locks.acquire(freshName())
      await untilSeen(taker, lease.name)
      let resuming: Promise<void> | undefined
      const writing = holder.transaction(async (tx) => {
        await guard(lease, tx)
        await holder.sql(`insert into ledger values (${lease.token})`, tx)
        const resume = await stall(applications())
        try {
          await takeOver(taker, lease)
        } finally {
          // The commit comes first, and may wait for what its node has missed.
          resuming = sleep(HEAD_START_MS).then(resume)
        }
      })
      const [written] = await Promise.allSettled([writing])
      await resuming
      if (written.status === 'fulfilled') return 'stale'
      expect(isTransactionAborted(written.reason), String(written.reason)).toBe(true)
      return 'refused'
    }

    for (let round = 0; round < ROUNDS; round++) expect(await race((lease, tx) => lease.guard(tx))).toBe('refused')

    const lockingRead = ({ name, owner }: Lease<unknown>, tx: unknown) =>
      holder.sql(`select 1 from rowlock_locks where name = '${name}' and owner = '${owner}' for update`, tx)
    // Until it has happened.
    while ((await race(lockingRead)) !== 'stale');
  })
}

async function takeOver({ locks }: Application, last: Lease<unknown>): Promise<void> {
  await locks.forceRelease(last.name, { wait: '20s' })
  const next = await locks.acquire(last.name)
  expect(next.token).toBeGreaterThan(last.token)
}

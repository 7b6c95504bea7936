import { expect, vi } from 'vitest'
import { type Adapter, createLocks, type Locks } from '../../src/index.ts'
import { freshName } from '../engines.ts'

/** What a setup has to offer to be tried. */
export interface Setup {
  readonly adapter: Adapter<unknown>
  transaction<T>(body: (tx: unknown) => Promise<T>): Promise<T>
  close(): Promise<unknown>
}

const LONG = { ttl: '20s', wait: '20s' } as const

/** Each of rowlock's verbs, with answers that depend on what rowlock can read: it throws where one of them is wrong. */
export async function useEverything({ adapter, transaction }: Setup): Promise<void> {
  const locks = createLocks(adapter, LONG)
  const others = createLocks(adapter, LONG)
  try {
    expect(await locks.migrate()).toEqual(expect.arrayContaining([expect.any(String)]))
    expect(await locks.migrate()).toEqual([])
    await leases(locks, others)
    await waiting(locks, others)
    await inTransactions(locks, transaction)
    const evicted = await locks.acquire(freshName())
    expect(await others.forceRelease(evicted.name)).toBe(true)
    expect(await others.forceRelease(evicted.name)).toBe(false)
    expect(await evicted.release()).toBe(false)
    expect(await locks.purge({ idleFor: '1ms' })).toBeGreaterThan(0)
  } finally {
    await locks.close()
    await others.close()
  }
}

async function leases(locks: Locks<unknown>, others: Locks<unknown>): Promise<void> {
  const takeovers: string[] = []
  const stop = locks.on((event) => {
    if (event.type === 'takeover') takeovers.push(event.name)
  })
  const expired = await locks.acquire(freshName(), { ttl: '20ms', renew: false })
  const lease = await locks.acquire(expired.name)
  expect(lease.token).toBeGreaterThan(expired.token)
  expect(takeovers).toEqual([lease.name])
  stop()
  expect(await others.tryAcquire(lease.name)).toBeNull()
  const state = { name: lease.name, token: lease.token, owner: lease.owner, waiters: 0 }
  expect(await others.inspect(lease.name)).toMatchObject(state)
  expect(await others.list({ prefix: lease.name })).toMatchObject([state])
  await lease.extend('1m')
  expect(lease.remainingMs()).toBeGreaterThan(30_000)
  expect(await lease.release()).toBe(true)
  expect(await others.inspect(lease.name)).toBeNull()
}

async function waiting(locks: Locks<unknown>, others: Locks<unknown>): Promise<void> {
  const first = await locks.acquire(freshName())
  const tokens: bigint[] = []
  const next = [others, locks, others].map(async (instance) => {
    const lease = await instance.acquire(first.name)
    tokens.push(lease.token)
    await lease.release()
  })
  await vi.waitFor(async () => expect((await locks.inspect(first.name))?.waiters).toBe(3), { timeout: 10_000 })
  expect(await first.release()).toBe(true)
  await Promise.all(next)
  expect(tokens).toEqual([...tokens].sort((a, b) => Number(a - b)))
}

async function inTransactions(locks: Locks<unknown>, transaction: Setup['transaction']): Promise<void> {
  const [guarded, released, held] = [await locks.acquire(freshName()), await locks.acquire(freshName()), freshName()]
  const stale = await locks.acquire(freshName(), { renew: false })
  await locks.forceRelease(stale.name)
  await transaction(async (tx) => {
    await guarded.guard(tx)
    expect(await locks.within(tx).tryAcquire(guarded.name)).toBeNull()
    expect((await locks.within(tx).acquire(held)).token).toBeGreaterThan(0n)
    expect(await released.release(tx)).toBe(true)
  })
  await expect(transaction(async (tx) => stale.guard(tx))).rejects.toMatchObject({ code: 'LOCK_LOST' })
  expect(await locks.inspect(released.name)).toBeNull()
  expect(await guarded.release()).toBe(true)
}

/** That the first use ends in a typed error which says what is wrong, and leaves nothing behind. */
export async function expectRefusal({ adapter, transaction }: Setup): Promise<void> {
  const locks = createLocks(adapter, { ...LONG, wait: 0 })
  const refused = { code: 'UNSUPPORTED', message: expect.stringContaining('this driver does not answer') }
  try {
    const name = freshName()
    await expect(locks.acquire(name)).rejects.toMatchObject(refused)
    await expect(locks.tryAcquire(name)).rejects.toMatchObject(refused)
    await expect(transaction(async (tx) => locks.within(tx).tryAcquire(name))).rejects.toMatchObject(refused)
  } finally {
    await locks.close()
  }
}

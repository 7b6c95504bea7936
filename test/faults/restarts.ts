import { setTimeout as sleep } from 'node:timers/promises'
import { createLocks, LockError, type Locks } from '../../src/index.ts'
import { type CampaignOptions, type CampaignResult, onTarget } from './campaign.ts'
import { tokensHaveOneOwner, tokensRiseWithGrants } from './checkers.ts'
import { clock, type Hold } from './history.ts'
import { connectWork } from './work.ts'

const LOCKS = 6
const CALLERS = 12
/** Between two crashes there is some time to work. */
const LONGEST_LIFE_MS = 300
const PURGE_SHARE = 0.02

/**
 * The server is killed and started again while callers take locks and give them back, and rows of idle locks are purged. No
 * token may repeat or fall, and what was granted right before a crash must still be held after it.
 */
export function restarts({ engine, times, ttlMs }: CampaignOptions): Promise<CampaignResult> {
  return onTarget(engine, async (target) => {
    if (target.crash === undefined) throw new Error(`${engine} has no server that could be killed`)
    const work = await connectWork(target.dialect, target.urls[0])
    const locks = createLocks(work.adapter, { ttl: ttlMs, wait: '2s', statementTimeout: '1s' })
    const holds: Hold[] = []
    const violations: string[] = []
    let finishing = false
    const callers = Array.from({ length: CALLERS }, async (_, caller) => {
      for (let turn = 0; !finishing; turn++) {
        const hold = await takeTurn(locks, `restart:${(caller + turn) % LOCKS}`)
        if (hold === null) await sleep(20)
        else holds.push(hold)
      }
    })
    try {
      for (let crash = 1; crash <= times; crash++) {
        await sleep(Math.random() * LONGEST_LIFE_MS)
        const anchor = await patiently(() => locks.acquire(`anchor:${crash}`, { ttl: '1h', renew: false }))
        await target.crash()
        const state = await patiently(() => locks.inspect(anchor.name))
        if (state?.token !== anchor.token) {
          violations.push(
            `${anchor.name} was granted with token ${anchor.token}; after the crash it has ${state?.token}`,
          )
        }
        await patiently(() => anchor.release())
      }
    } finally {
      finishing = true
      await Promise.all(callers)
      await locks.close()
      await work.close()
    }
    const evidence = { holds, writes: [], entries: [], reads: [], uses: [], isGuarded: () => true }
    violations.push(...tokensHaveOneOwner(evidence), ...tokensRiseWithGrants(evidence))
    return { campaign: 'restarts', engine, figures: { restarts: times, grants: holds.length }, violations }
  })
}

async function takeTurn(locks: Locks<unknown>, lock: string): Promise<Hold | null> {
  const requestedAt = clock()
  try {
    if (Math.random() < PURGE_SHARE) await locks.purge({ idleFor: 0 })
    const lease = await locks.acquire(lock)
    const grantedAt = clock()
    const hold: Hold = {
      operation: `0.${grantedAt}`,
      worker: 0,
      lock,
      mode: 'lease',
      weight: null,
      token: Number(lease.token),
      owner: lease.owner,
      requestedAt,
      grantedAt,
      until: grantedAt + lease.remainingMs(),
      releasedAt: null,
      lostAt: null,
      sharedAt: null,
    }
    await lease.release().catch(ignoreOutage)
    return hold
  } catch (error) {
    ignoreOutage(error)
    return null
  }
}

/** Whatever a server that is down makes of a call; the lock then frees itself. */
function ignoreOutage(error: unknown): void {
  if (!(error instanceof LockError) || !['DATABASE', 'LOCK_TIMEOUT'].includes(error.code)) throw error
}

/** What has to work in the end, although the server may not be back at once. */
async function patiently<T>(call: () => Promise<T>): Promise<T> {
  for (let tries = 1; ; tries++) {
    try {
      return await call()
    } catch (error) {
      if (tries === 20) throw error
      await sleep(200)
    }
  }
}

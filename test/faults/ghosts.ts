import { setTimeout as sleep } from 'node:timers/promises'
import { createLocks, type Lease, type Locks } from '../../src/index.ts'
import type { TestConnection } from '../connect.ts'
import { startProxy, type TcpProxy } from '../tcp-proxy.ts'
import { type CampaignOptions, type CampaignResult, onTarget, percentile } from './campaign.ts'
import { TAKEOVER_SLACK_MS } from './checkers.ts'
import { clock } from './history.ts'
import type { Target } from './target.ts'
import { connectWork } from './work.ts'

/** Each has a lock, a proxy and connections of its own. */
const LANES = 10

interface Lane {
  readonly lock: string
  readonly proxy: TcpProxy
  /** Behind the proxy. */
  readonly locks: Locks<unknown>
  /** Beside the proxy. */
  readonly others: Locks<unknown>
  readonly connection: TestConnection
  close(): Promise<void>
}

interface Findings {
  cuts: number
  retried: number
  abandoned: number
  /** How long others had to wait for a lock whose acquire was abandoned. */
  readonly afterlifeMs: number[]
  readonly violations: string[]
}

/**
 * Replies to acquires are cut when the server has granted the lock. A caller that still wants it must get that very grant
 * on the retry; one that does not want it any more must leave nothing behind that lives beyond the ttl.
 */
export function ghosts({ engine, times, ttlMs }: CampaignOptions): Promise<CampaignResult> {
  return onTarget(engine, async (target) => {
    if (target.dialect === 'sqlite') throw new Error('SQLite has no replies that could be cut')
    const findings: Findings = { cuts: 0, retried: 0, abandoned: 0, afterlifeMs: [], violations: [] }
    const lanes = await Promise.all(
      Array.from({ length: Math.min(LANES, times) }, (_, index) => openLane(target, index, ttlMs)),
    )
    try {
      await Promise.all(lanes.map((lane) => workThrough(lane, findings, times, ttlMs)))
    } finally {
      for (const lane of lanes) await lane.close()
    }
    const { cuts, retried, abandoned, afterlifeMs, violations } = findings
    const [median, longest] = [percentile(afterlifeMs, 0.5) ?? 0, percentile(afterlifeMs, 1) ?? 0]
    const afterlife = { 'afterlife p50, ms': median, 'longest afterlife, ms': longest }
    return { campaign: 'ghosts', engine, figures: { cuts, retried, abandoned, ...afterlife }, violations }
  })
}

async function openLane(target: Target, index: number, ttlMs: number): Promise<Lane> {
  const [url] = target.urls
  const proxy = await startProxy(url)
  const behind = await connectWork(target.dialect, proxy.through(url))
  const beside = await connectWork(target.dialect, url)
  const connection = await target.connect()
  const locks = createLocks(behind.adapter, { ttl: ttlMs, wait: '10s' })
  const others = createLocks(beside.adapter, { ttl: ttlMs, wait: '10s' })
  const lock = `ghost:${index}`
  // From now on the row exists, and one statement grants it.
  await (await locks.acquire(lock)).release()
  return {
    lock,
    proxy,
    locks,
    others,
    connection,
    async close() {
      proxy.restore()
      await Promise.all([locks.close(), others.close()])
      await Promise.all([behind.close(), beside.close(), connection.close()])
      await proxy.close()
    },
  }
}

async function workThrough(lane: Lane, findings: Findings, times: number, ttlMs: number): Promise<void> {
  for (let turn = 0; findings.cuts < times; turn++) {
    if (turn % 2 === 0) await retry(lane, findings, ttlMs)
    else await abandon(lane, findings, ttlMs)
  }
}

async function retry(lane: Lane, findings: Findings, ttlMs: number): Promise<void> {
  const startedAt = clock()
  const trap = setTrap(lane)
  const acquiring = lane.locks.acquire(lane.lock)
  const granted = await trap(acquiring)
  const lease = await acquiring
  const milliseconds = clock() - startedAt
  if (granted !== null) {
    findings.cuts++
    findings.retried++
    const isSame = granted.owner === lease.owner && granted.token === lease.token
    if (!isSame)
      findings.violations.push(`${lane.lock}: token ${granted.token} was granted unheard, and then ${lease.token}`)
    if (milliseconds > ttlMs)
      findings.violations.push(
        `${lane.lock}: the retry took ${milliseconds.toFixed(0)} ms, as if it waited for a ghost`,
      )
  }
  await lease.release()
}

async function abandon(lane: Lane, findings: Findings, ttlMs: number): Promise<void> {
  const caller = new AbortController()
  const trap = setTrap(lane)
  const acquiring = lane.locks.acquire(lane.lock, { signal: caller.signal }).then(
    (lease) => lease.release(),
    () => undefined,
  )
  const granted = await trap(acquiring)
  caller.abort()
  const abandonedAt = clock()
  const lease = await lane.others.acquire(lane.lock)
  const afterlifeMs = clock() - abandonedAt
  if (granted !== null) {
    findings.cuts++
    findings.abandoned++
    findings.afterlifeMs.push(afterlifeMs)
    if (afterlifeMs > ttlMs + TAKEOVER_SLACK_MS) {
      findings.violations.push(`${lane.lock}: a ghost lived for ${afterlifeMs.toFixed(0)} ms`)
    }
  }
  await acquiring
  await lease.release()
}

/**
 * Cuts the reply to the next request that names the lock. The function waits until that has happened, or the acquire has
 * ended without, and answers what the server has granted by then; null if nothing.
 */
function setTrap({ proxy, lock, connection }: Lane) {
  const before = proxy.cuts
  const asHex = Buffer.from(lock).toString('hex')
  const namesLock = (request: Buffer) =>
    request.includes(lock) || request.toString('latin1').toLowerCase().includes(asHex)
  proxy.cutReplies({ times: 1, after: namesLock })
  return async (acquiring: Promise<unknown>): Promise<Pick<Lease<unknown>, 'owner' | 'token'> | null> => {
    let ended = false
    const end = () => {
      ended = true
    }
    acquiring.then(end, end)
    while (proxy.cuts === before && !ended) await sleep(1)
    proxy.restore()
    if (proxy.cuts === before) return null
    const [row] = await connection.query(`select owner, token from rowlock_locks where name = '${lock}'`)
    // Bytes on MySQL.
    return row?.owner == null ? null : { owner: String(row.owner), token: BigInt(String(row.token)) }
  }
}

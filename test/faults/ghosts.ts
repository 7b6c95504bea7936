import { setTimeout as sleep } from 'node:timers/promises'
import { createLocks, type Lease, type Locks } from '../../src/index.ts'
import type { TestConnection } from '../connect.ts'
import { startProxy, type TcpProxy } from '../tcp-proxy.ts'
import { type CampaignOptions, type CampaignResult, onTarget, percentile, wrongSums } from './campaign.ts'
import { TAKEOVER_SLACK_MS } from './checkers.ts'
import { clock } from './history.ts'
import type { Target } from './target.ts'
import { connectWork, PERMITS } from './work.ts'

/** Each has a lock, a proxy and connections of its own. */
const LANES = 10
/** Of the permits of a semaphore. */
const WEIGHT = 2

interface Lane {
  readonly lock: string
  readonly proxy: TcpProxy
  readonly permits: boolean
  /** Behind the proxy: the lock, or some permits of it. */
  take(signal?: AbortSignal): Promise<Lease<unknown>>
  /** Beside the proxy: the lock, or all permits. */
  takeAll(): Promise<Lease<unknown>>
  readonly connection: TestConnection
  close(): Promise<void>
}

interface Findings {
  cuts: number
  retried: number
  abandoned: number
  givenBack: number
  /** How long others had to wait for a lock whose acquire was abandoned. */
  readonly afterlifeMs: number[]
  readonly violations: string[]
}

/**
 * Replies to acquires are cut when the server has granted the lock. A caller that still wants it must get that very grant
 * on the retry; one that does not want it any more must leave nothing behind that lives beyond the ttl. Of permits, replies to
 * releases are cut as well; all permits must come back, each once.
 */
export function ghosts({ engine, times, ttlMs, permits = false }: CampaignOptions): Promise<CampaignResult> {
  return onTarget(engine, async (target) => {
    if (target.dialect === 'sqlite') throw new Error('SQLite has no replies that could be cut')
    const findings: Findings = { cuts: 0, retried: 0, abandoned: 0, givenBack: 0, afterlifeMs: [], violations: [] }
    const lanes = await Promise.all(
      Array.from({ length: Math.min(LANES, times) }, (_, index) => openLane(target, index, ttlMs, permits)),
    )
    try {
      await Promise.all(lanes.map((lane) => workThrough(lane, findings, times, ttlMs)))
    } finally {
      for (const lane of lanes) await lane.close()
    }
    const { cuts, retried, abandoned, givenBack, afterlifeMs, violations } = findings
    const [median, longest] = [percentile(afterlifeMs, 0.5) ?? 0, percentile(afterlifeMs, 1) ?? 0]
    const afterlife = { 'afterlife p50, ms': median, 'longest afterlife, ms': longest }
    const figures = { cuts, retried, abandoned, ...(permits && { givenBack }), ...afterlife }
    return { campaign: permits ? 'ghosts of permits' : 'ghosts', engine, figures, violations }
  })
}

async function openLane(target: Target, index: number, ttlMs: number, permits: boolean): Promise<Lane> {
  const [url] = target.urls
  const proxy = await startProxy(url)
  const behind = await connectWork(target.dialect, proxy.through(url))
  const beside = await connectWork(target.dialect, url)
  const connection = await target.connect()
  const locks = createLocks(behind.adapter, { ttl: ttlMs, wait: '10s' })
  const others = createLocks(beside.adapter, { ttl: ttlMs, wait: '10s' })
  const lock = `ghost:${index}`
  // From now on the row exists, and one statement grants it.
  const ofPermits = (those: Locks<unknown>) => those.semaphore(lock, { permits: PERMITS })
  await (await (permits ? ofPermits(locks).acquire() : locks.acquire(lock))).release()
  const mine = ofPermits(locks)
  const theirs = ofPermits(others)
  return {
    lock,
    proxy,
    permits,
    take: (signal) => (permits ? mine.acquire({ weight: WEIGHT, signal }) : locks.acquire(lock, { signal })),
    takeAll: () => (permits ? theirs.acquire({ weight: PERMITS }) : others.acquire(lock)),
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
    const kind = turn % (lane.permits ? 3 : 2)
    if (kind === 0) await retry(lane, findings, ttlMs)
    else if (kind === 1) await abandon(lane, findings, ttlMs)
    else await giveBack(lane, findings, ttlMs)
  }
}

async function retry(lane: Lane, findings: Findings, ttlMs: number): Promise<void> {
  const startedAt = clock()
  const trap = setTrap(lane)
  const acquiring = lane.take()
  const { granted } = await trap(acquiring)
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

/** The reply to a release is cut. What it gave back is there once, although it is asked for again. */
async function giveBack(lane: Lane, findings: Findings, ttlMs: number): Promise<void> {
  const lease = await lane.take()
  const trap = setTrap(lane)
  const releasing = lease.release().catch(() => undefined)
  const { isCut } = await trap(releasing)
  const releasedAt = clock()
  const all = await lane.takeAll()
  if (isCut) {
    findings.cuts++
    findings.givenBack++
    tell(lane, findings, clock() - releasedAt, ttlMs)
  }
  await releasing
  findings.violations.push(...(await wrongSums(lane.connection, lane.lock, PERMITS)))
  await all.release()
  findings.violations.push(...(await wrongSums(lane.connection, lane.lock, 0)))
}

function tell(lane: Lane, findings: Findings, afterlifeMs: number, ttlMs: number): void {
  findings.afterlifeMs.push(afterlifeMs)
  if (afterlifeMs > ttlMs + TAKEOVER_SLACK_MS) {
    findings.violations.push(`${lane.lock}: a ghost lived for ${afterlifeMs.toFixed(0)} ms`)
  }
}

async function abandon(lane: Lane, findings: Findings, ttlMs: number): Promise<void> {
  const caller = new AbortController()
  const trap = setTrap(lane)
  const acquiring = lane.take(caller.signal).then(
    (lease) => lease.release(),
    () => undefined,
  )
  const { granted } = await trap(acquiring)
  caller.abort()
  const abandonedAt = clock()
  const lease = await lane.takeAll()
  const afterlifeMs = clock() - abandonedAt
  if (granted !== null) {
    findings.cuts++
    findings.abandoned++
    tell(lane, findings, afterlifeMs, ttlMs)
  }
  await acquiring
  if (lane.permits) findings.violations.push(...(await wrongSums(lane.connection, lane.lock, PERMITS)))
  await lease.release()
}

interface Trapped {
  readonly isCut: boolean
  readonly granted: Pick<Lease<unknown>, 'owner' | 'token'> | null
}

/**
 * Cuts the reply to the next request that names the lock. The function waits until that has happened, or the call has ended
 * without, and answers what the server has granted by then; null if nothing.
 */
function setTrap({ proxy, lock, permits, connection }: Lane) {
  const before = proxy.cuts
  const asHex = Buffer.from(lock).toString('hex')
  const namesLock = (request: Buffer) =>
    request.includes(lock) || request.toString('latin1').toLowerCase().includes(asHex)
  proxy.cutReplies({ times: 1, after: namesLock })
  return async (calling: Promise<unknown>): Promise<Trapped> => {
    let ended = false
    const end = () => {
      ended = true
    }
    calling.then(end, end)
    while (proxy.cuts === before && !ended) await sleep(1)
    proxy.restore()
    if (proxy.cuts === before) return { isCut: false, granted: null }
    const held = `from ${permits ? 'rowlock_slots' : 'rowlock_locks'} where name = '${lock}' and owner is not null`
    const [row] = await connection.query(`select owner, token ${held}`)
    // Bytes on MySQL.
    const granted = row === undefined ? null : { owner: String(row.owner), token: BigInt(String(row.token)) }
    return { isCut: true, granted }
  }
}

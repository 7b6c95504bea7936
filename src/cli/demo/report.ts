import Table from 'cli-table3'
import type { Audit } from './ledger.ts'
import type { Load } from './load.ts'
import type { Protection } from './worker.ts'

/** One run of the load, with the books audited after it. */
export interface Run {
  readonly protection: Protection
  readonly load: Load
  readonly audit: Audit
}

const TERMINAL_REFRESH_MS = 100
const LOG_REFRESH_MS = 1000

/** Shows how a load is getting on: in one line of a terminal, else in a line per second. Returns what ends it. */
export function showProgress(protection: Protection, load: Load): () => void {
  const { isTTY, columns } = process.stdout
  const startedAt = performance.now()
  const show = (end = '') => {
    const seconds = ((performance.now() - startedAt) / 1000).toFixed().padStart(3)
    const line = `${protection.padEnd(15)} ${seconds} s  ${describe(load)}`
    process.stdout.write(isTTY ? `\r${line.slice(0, (columns || 80) - 1)}\x1b[K${end}` : `${line}\n`)
  }
  const timer = setInterval(show, isTTY ? TERMINAL_REFRESH_MS : LOG_REFRESH_MS, '')
  return () => {
    clearInterval(timer)
    show('\n')
  }
}

function describe({ acknowledged, stops, kills, takeovers, rejected }: Load): string {
  return [
    `${acknowledged.size} done`,
    `${kills} killed`,
    `${stops} stopped`,
    `${takeovers} taken over`,
    `${rejected} rejected`,
  ].join(', ')
}

export function table(runs: readonly Run[]): string {
  const report = new Table({
    head: [
      '',
      'writes\nacknowledged',
      'writes\nlost',
      'stale writes\nrejected',
      'takeovers',
      'acquire\np50 ms',
      'acquire\np99 ms',
    ],
    colAligns: ['left', 'right', 'right', 'right', 'right', 'right', 'right'],
    style: { head: [], border: [] },
  })
  for (const { protection, load, audit } of runs) {
    report.push([
      protection,
      2 * load.acknowledged.size,
      audit.lostWrites,
      2 * load.rejected,
      load.takeovers,
      percentile(load.acquireMs, 0.5),
      percentile(load.acquireMs, 0.99),
    ])
  }
  return report.toString()
}

/** What the table says, in words. */
export function verdict({ protection, load, audit }: Run): string {
  const { lostWrites, moneyOff, problems } = audit
  if (protection === 'lease and guard') {
    if (problems.length > 0) return ['FAILED under leases with guards:', ...problems].join('\n  ')
    return `Under leases with guards nothing was lost: ${2 * load.rejected} stale writes were refused,\nthe balances add up, and tokens rise in the order of commits.`
  }
  const how = protection === 'lease only' ? 'Under leases without guards' : 'Without locks'
  if (lostWrites === 0) return `${how} nothing was lost this time. That was luck: run it again, or longer\n(--seconds).`
  return `${how} ${lostWrites} writes were lost, and the sum of all balances is off by ${moneyOff}.`
}

function percentile(samples: readonly number[], part: number): string {
  const sorted = [...samples].sort((a, b) => a - b)
  const sample = sorted[Math.ceil(sorted.length * part) - 1]
  return sample === undefined ? '-' : sample.toFixed(1)
}

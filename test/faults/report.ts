import Table from 'cli-table3'
import type { CampaignResult } from './campaign.ts'
import type { RunResult } from './run.ts'

/** How many sentences of one checker are printed; the count of all is, too. */
const SHOWN_VIOLATIONS = 10
const SHOWN_ERRORS = 12

/** The figures of all runs, side by side. */
export function summary(results: readonly RunResult[]): string {
  const table = new Table({ head: ['', ...results.map(({ engine }) => engine)], style: { head: [], border: [] } })
  const row = (name: string, value: (result: RunResult) => string | number) => table.push([name, ...results.map(value)])
  row('seconds', ({ seconds }) => seconds.toFixed(0))
  row('faults', ({ faults }) => Object.values(faults).reduce((sum, times) => sum + times, 0))
  for (const kind of new Set(results.flatMap(({ faults }) => Object.keys(faults)))) {
    row(`  ${kind}`, ({ faults }) => faults[kind] ?? '-')
  }
  row('operations ok', ({ operations }) => operations.ok)
  row('operations failed', ({ operations }) => operations.fail)
  row('operations of unknown fate', ({ operations }) => operations.info)
  row('guarded writes', ({ guardedWrites }) => guardedWrites)
  row('guarded writes per second', ({ guardedWritesPerSecond }) => guardedWritesPerSecond.toFixed(0))
  row('guarded reads', ({ guardedReads }) => guardedReads)
  row('guarded uses of permits', ({ guardedUses }) => guardedUses)
  row('grants', ({ grants }) => grants)
  row('aborts that cross a hand-off', ({ departures }) => departures)
  row('lost by leases without guard', ({ controls }) => share(controls['lease without guard']))
  row('lost by check-then-act', ({ controls }) => share(controls['check then act']))
  row('wrong by readers and writers without guard', ({ controls }) => share(controls['modes without guard']))
  row('wrong by permits without guard', ({ controls }) => share(controls['permits without guard']))
  row('takeovers measured', ({ takeovers }) => takeovers.count)
  row('takeover p99, ms', ({ takeovers }) => takeovers.p99?.toFixed(0) ?? '-')
  row('lost leases, signal checked', ({ losses }) => losses)
  row('callers overtaken', ({ overtakes }) => overtakes.callers)
  row('  by others, at most', ({ overtakes }) => overtakes.most)
  row(
    'stale writes the register refused',
    ({ register }) => `${register.refused} of ${register.refused + register.accepted}`,
  )
  row('violations', ({ violations }) => Object.values(violations).reduce((sum, { length }) => sum + length, 0))
  return table.toString()
}

export function total(results: readonly RunResult[]): string {
  const sum = (value: (result: RunResult) => number) => results.reduce((whole, result) => whole + value(result), 0)
  const counts = results.flatMap(({ faults }) => Object.entries(faults))
  const kinds = new Set(counts.filter(([, times]) => times > 0).map(([kind]) => kind))
  const faults = counts.reduce((whole, [, times]) => whole + times, 0)
  const writes = sum(({ guardedWrites, guardedUses }) => guardedWrites + guardedUses)
  const reads = sum(({ guardedReads }) => guardedReads)
  const violations = sum((result) => Object.values(result.violations).flat().length)
  return `In all ${faults} faults of ${kinds.size} kinds, ${writes} guarded writes, ${reads} guarded reads, ${violations} violations.`
}

/** What was wrong with a run; empty if nothing was. */
export function complaints({ engine, seed, violations, directory }: RunResult): string {
  const checks = Object.entries(violations)
  if (checks.length === 0) return ''
  return [
    `${engine} FAILED with seed ${seed}; histories and logs are in ${directory}`,
    ...checks.flatMap(([check, sentences]) => [
      `  ${words(check)}: ${sentences.length}`,
      ...sentences.slice(0, SHOWN_VIOLATIONS).map((sentence) => `    ${sentence}`),
    ]),
  ].join('\n')
}

export function commonErrors({ engine, errors }: RunResult): string {
  const lines = errors.slice(0, SHOWN_ERRORS).map(([error, times]) => `  ${String(times).padStart(7)}  ${error}`)
  return [`errors of operations on ${engine}:`, ...lines].join('\n')
}

export function campaignReport({ campaign, engine, figures, violations }: CampaignResult): string {
  const shown = Object.entries(figures).map(([name, value]) => `${name} ${Math.round(value)}`)
  return [
    `${campaign} on ${engine}: ${shown.join(', ')}; ${violations.length} violations`,
    ...violations.slice(0, SHOWN_VIOLATIONS).map((sentence) => `  ${sentence}`),
  ].join('\n')
}

function share(loss: { writes: number; lost: number } | undefined): string {
  if (loss === undefined) return '-'
  const { writes, lost } = loss
  return `${((100 * lost) / Math.max(1, writes)).toFixed(1)} % of ${writes}`
}

function words(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => ` ${letter.toLowerCase()}`)
}

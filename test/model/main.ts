/** Checks the models in full, and that each of their mutants is caught. `tsx test/model/main.ts [modes:, or a part of a name]` */
import { FULL, MUTANTS } from './checks.ts'
import { type Check, installSpin, type Verdict, verify } from './spin.ts'

const [part = ''] = process.argv.slice(2)
let failed = 0

const isAsked = ({ model, name }: Check) => `${model}: ${name}`.includes(part)

function report(name: string, passed: boolean, { states, seconds, violation }: Verdict): void {
  if (!passed) failed++
  const outcome = violation === null ? '0 errors' : violation
  console.log(
    `${passed ? 'ok    ' : 'FAILED'} ${name}: ${outcome}, ${states.toLocaleString('en')} states, ${seconds} s`,
  )
}

await installSpin()
for (const check of FULL.filter(isAsked)) {
  const verdict = await verify(check)
  report(`${check.name} [${check.defines.join(' ')}]`, verdict.complete, verdict)
}
for (const mutant of MUTANTS.filter(isAsked)) {
  const verdict = await verify(mutant, '-O0')
  report(`mutant: ${mutant.name}`, verdict.violation !== null && mutant.violates.test(verdict.violation), verdict)
}
console.log(failed === 0 ? 'the models hold, and every mutant was caught' : `${failed} FAILED`)
process.exitCode = failed === 0 ? 0 : 1
